"""The reference is what the model was before tuning, with and without an adapter."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from rftt import FunctionalTokens, Grammar
from rftt.learners.reference import WithoutAdapter, frozen_reference
from rftt.tokens.embeddings import (
    initialize_token_embeddings,
    token_embeddings_are_untrained,
    trainable_token_indices,
)
from tests.models import tiny_model, tokenizer

WORDS = tokenizer()
TOKENS = FunctionalTokens.add(WORDS, Grammar.default())
IDS = torch.tensor([[3, TOKENS.openers["analysis"], 5, 6, TOKENS.closers["analysis"], 4]])


def _logits(model: object) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=IDS).logits  # type: ignore[operator]
    return logits


def _untaught(tied: bool) -> PreTrainedModel:
    model = tiny_model(tied=tied)
    initialize_token_embeddings(model, WORDS, TOKENS)
    return model


def _taught(tied: bool) -> PreTrainedModel:
    model = _untaught(tied)
    torch.manual_seed(1)
    with torch.no_grad():
        for matrix in (model.get_input_embeddings(), model.get_output_embeddings()):
            matrix.weight[list(TOKENS.ids)] += torch.randn(len(TOKENS.ids), matrix.weight.shape[1])
    return model


def _with_adapter(model: PreTrainedModel) -> PeftModel:
    config = LoraConfig(
        r=2, target_modules=["q_proj"], trainable_token_indices=trainable_token_indices(model, TOKENS)
    )
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    return adapted


def _tune(model: torch.nn.Module) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("tied", [True, False])
def test_of_a_plain_model_it_is_a_frozen_copy(tied: bool) -> None:
    model = _taught(tied)
    before, reference = _logits(model), frozen_reference(model, WORDS, TOKENS)
    _tune(model)
    assert not torch.allclose(_logits(model), before)
    torch.testing.assert_close(_logits(reference), before)
    assert isinstance(reference, PreTrainedModel)
    assert not any(p.requires_grad for p in reference.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_over_a_taught_model_the_adapter_is_switched_off(tied: bool) -> None:
    model = _with_adapter(_taught(tied))
    before, reference = _logits(model), frozen_reference(model, WORDS, TOKENS)
    assert isinstance(reference, WithoutAdapter)
    _tune(model)
    after = _logits(model)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(_logits(reference), before)
    torch.testing.assert_close(_logits(model), after, msg="the adapter is on again")


@pytest.mark.parametrize("tied", [True, False])
def test_where_the_adapter_taught_the_tokens_it_is_merged_into_a_copy(tied: bool) -> None:
    model = _with_adapter(_untaught(tied))
    _tune(model)
    before, reference = _logits(model), frozen_reference(model, WORDS, TOKENS)
    assert isinstance(reference, PreTrainedModel)
    torch.testing.assert_close(_logits(reference), before, atol=1e-5, rtol=1e-5)
    with model.disable_adapter():
        assert not torch.allclose(_logits(model), before, atol=1e-3), (
            "the trap: without the adapter the embeddings are those of before"
        )
    _tune(model)
    torch.testing.assert_close(_logits(reference), before, atol=1e-5, rtol=1e-5)
    assert not any(p.requires_grad for p in reference.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_are_untrained_until_one_changes(tied: bool) -> None:
    model = _untaught(tied)
    assert token_embeddings_are_untrained(model, WORDS, TOKENS)
    with torch.no_grad():
        model.get_input_embeddings().weight[TOKENS.closers["refine"], 0] += 0.01
    assert not token_embeddings_are_untrained(model, WORDS, TOKENS)
