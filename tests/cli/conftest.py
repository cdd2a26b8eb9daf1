"""A folder to give commands in, and a Qwen2 that can do some arithmetic."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.auto import tokenization_auto

from rftt.nano.checkpoint import load_nano


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which the command line adds to where Python looks for modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


@pytest.fixture
def qwen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nano as a Qwen2: its weights, and biases of zero where a Llama has none."""
    # A Qwen2 in a folder gets Qwen2's own way to split a text, whatever its tokenizer's file says.
    monkeypatch.setitem(tokenization_auto.TOKENIZER_MAPPING_NAMES, "qwen2", "TokenizersBackend")
    nano, tokenizer = load_nano()
    names = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
        "eos_token_id", "pad_token_id", "bos_token_id",
    )  # fmt: skip
    model = Qwen2ForCausalLM(Qwen2Config(**{name: getattr(nano.config, name) for name in names}))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    missing, unexpected = model.load_state_dict(nano.state_dict(), strict=False)
    assert not unexpected
    assert all(name.endswith("bias") for name in missing)
    folder = tmp_path / "qwen"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
