"""The shipped checkpoint of nano."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

FOLDER: Final = Path(__file__).with_name("model")


def load_nano() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load nano and its tokenizer.

    nano follows functional prompts on arithmetic, imperfectly, and has never seen a functional token.
    ``model/README.md`` beside this file says how it was made and what it can do.
    """
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(FOLDER)
