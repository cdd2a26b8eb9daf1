"""The frozen model that a tuned one is kept close to."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.tokens.embeddings import rows_are_untrained
from rftt.tokens.functional import FunctionalTokens


class WithoutAdapter:
    """A model as it is without its adapter: a reference that needs no second copy of the weights."""

    def __init__(self, model: PeftModel) -> None:
        self._model = model

    @property
    def device(self) -> torch.device:
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
    """What a model is now, and stays while it is tuned.

    Of a plain model it is a frozen copy. With an adapter, the model without it will do, but only if
    what is underneath has been taught the functional tokens: switching an adapter off switches off the
    rows it has trained as well. Where it is the adapter that taught them, the reference is a frozen copy
    with the adapter merged in; merge a warm-up adapter before reinforcement to do without.
    """
    if isinstance(model, PeftModel):
        with model.disable_adapter():
            base = cast(PreTrainedModel, model.get_base_model())
            is_untaught = rows_are_untrained(base, tokenizer, tokens)
        if not is_untaught:
            return WithoutAdapter(model)
        merged: PreTrainedModel = copy.deepcopy(model).merge_and_unload()
        return merged.requires_grad_(False)
    return copy.deepcopy(model).requires_grad_(False)
