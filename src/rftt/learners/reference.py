"""The frozen reference model that a tuned one is kept close to."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.tokens.embeddings import token_embeddings_are_untrained
from rftt.tokens.functional import FunctionalTokens


class WithoutAdapter:
    """Runs a model with its adapter switched off: a reference without a second copy of the weights."""

    def __init__(self, model: PeftModel) -> None:
        self._model = model

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        return torch.device(self._model.device)

    def __call__(self, **inputs: Any) -> Any:
        with self._model.disable_adapter():
            return self._model(**inputs)


Reference = PreTrainedModel | WithoutAdapter


def frozen_reference(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: FunctionalTokens,
) -> Reference:
    """Return the model as it is now, as a reference that tuning does not change.

    Of a plain model it is a frozen copy. A model with an adapter serves as its own reference with the
    adapter switched off, unless the adapter is what taught it the functional tokens: then their rows
    would be switched off too, and the reference is a frozen copy with the adapter merged in. Merge a
    warm-up adapter before reinforcement to do without that copy.
    """
    if isinstance(model, PeftModel):
        with model.disable_adapter():
            base = cast(PreTrainedModel, model.get_base_model())
            is_untaught = token_embeddings_are_untrained(base, tokenizer, tokens)
        if not is_untaught:
            return WithoutAdapter(model)
        merged: PreTrainedModel = copy.deepcopy(model).merge_and_unload()
        merged.requires_grad_(False).eval()
        return merged
    frozen = copy.deepcopy(model)
    frozen.requires_grad_(False).eval()
    return frozen
