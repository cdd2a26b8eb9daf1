"""Sampling with vLLM's engine. vLLM itself is imported only when a sampler is made."""
