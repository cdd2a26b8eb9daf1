"""How tokens are produced: samplers over transformers, vLLM and servers."""
