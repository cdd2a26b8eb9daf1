"""Embeddings of functional tokens in a model's input and output matrices."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.tokens.functional import FunctionalTokens


@torch.no_grad()
def initialize_token_embeddings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: FunctionalTokens,
    *,
    separator: str = "\n",
) -> None:
    """Give the functional tokens embeddings in the model, in place, input and output alike.

    An opener starts as the mean of the embeddings of its description's words, so that at first it means
    what the words mean. A closer starts as the embedding of the text that ends a step in plain text,
    moved a little towards its description, so that closers differ.

    Args:
        model: the model; its matrices grow to the tokenizer's size if need be.
        tokenizer: its tokenizer, which has the tokens.
        tokens: the functional tokens.
        separator: the text that ends a step in plain text.
    """
    resize_token_embeddings(model, tokenizer)
    matrices = (model.get_input_embeddings(), model.get_output_embeddings())
    for weight in {id(m): _weight(m) for m in matrices if m is not None}.values():
        for token, embedding in _initial_embeddings(weight, tokenizer, tokens, separator).items():
            weight[token] = embedding


def token_embeddings_are_untrained(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: FunctionalTokens,
    *,
    separator: str = "\n",
) -> bool:
    """Return whether the input embeddings of all functional tokens are still those that
    :func:`initialize_token_embeddings` gives them."""
    weight = _weight(model.get_input_embeddings()).detach()
    initial = _initial_embeddings(weight, tokenizer, tokens, separator)
    return all(torch.allclose(weight[token], e, atol=1e-6) for token, e in initial.items())


def _initial_embeddings(
    weight: Float[Tensor, "vocab hidden"],
    tokenizer: PreTrainedTokenizerBase,
    tokens: FunctionalTokens,
    separator: str,
) -> dict[int, Float[Tensor, " hidden"]]:
    end = weight[tokenizer.encode(separator, add_special_tokens=False)].mean(0)
    embeddings = {}
    for function in tokens.grammar.functions.values():
        words = tokenizer.encode(f"{function.description}:", add_special_tokens=False)
        meaning = weight[words].mean(0)
        embeddings[tokens.openers[function.name]] = meaning
        embeddings[tokens.closers[function.name]] = 0.9 * end + 0.1 * meaning
    return embeddings


def resize_token_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the model an embedding for each id of its tokenizer, in place.

    The matrices never shrink: models often have more embeddings than their tokenizer has ids.
    """
    if _weight(model.get_input_embeddings()).shape[0] < len(tokenizer):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)


def _weight(module: torch.nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def trainable_token_indices(model: PreTrainedModel, tokens: FunctionalTokens) -> dict[str, list[int]]:
    """Return PEFT's ``trainable_token_indices`` for the functional tokens: their ids in the input matrix
    and in the output matrix, whether or not the two are tied.

    Use as ``LoraConfig(trainable_token_indices=trainable_token_indices(model, tokens), ...)`` and save
    with ``save_embedding_layers=False``: only the embeddings of these tokens belong to the adapter.
    """
    names = {id(module): name for name, module in model.named_modules()}
    matrices = (model.get_input_embeddings(), model.get_output_embeddings())
    return {names[id(m)].rsplit(".", 1)[-1]: list(tokens.ids) for m in matrices if m is not None}
