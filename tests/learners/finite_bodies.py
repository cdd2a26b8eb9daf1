"""Critics and value models that are tables: heads on the features of a finite model."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from rftt.learners.critic import HeadCritic, ModelCritic
from rftt.testing import FiniteModel
from rftt.verifiers.value import ValueModel


class FiniteBody(nn.Module):
    """A body without a head: its hidden states are 1 at the number of the prefix."""

    def __init__(self, model: FiniteModel) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: Any, position_ids: Any, use_cache: bool
    ) -> SimpleNamespace:
        output = self.model(
            input_ids, attention_mask, position_ids, use_cache=use_cache, output_hidden_states=True
        )
        return SimpleNamespace(last_hidden_state=output.hidden_states[-1])


def table_value_model(model: FiniteModel, **settings: Any) -> ValueModel:
    """A value model with one free number for each prefix."""
    body = FiniteBody(copy.deepcopy(model))
    return ValueModel(body, size=len(model.prefixes), **settings)


def head_critic(model: FiniteModel, **settings: Any) -> HeadCritic:
    """A head on the features of the model that is tuned."""
    return HeadCritic(len(model.prefixes), **settings)


def model_critic(model: FiniteModel) -> ModelCritic:
    """A critic that is a table of its own."""
    return ModelCritic(table_value_model(model))
