"""The shipped checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

FOLDER: Final = Path(__file__).with_name("model")


def load_nano() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """nano and its tokenizer: a model that follows functional prompts on arithmetic, imperfectly,
    and has never seen a functional token. ``model/README.md`` beside this file says how it was made
    and what it can do."""
    return load_model(FOLDER)


def load_model(folder: Path | str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer from a folder in transformers' format.

    Raises ``FileNotFoundError`` naming the folder if it is missing or holds no model.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        state = "has no config.json" if folder.is_dir() else "does not exist"
        raise FileNotFoundError(f"model folder {folder} {state}: give one written by save_pretrained")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)
