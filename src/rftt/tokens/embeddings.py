"""Rows for functional tokens in a model's embedding matrices."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.tokens.functional import FunctionalTokens


@torch.no_grad()
def add_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: FunctionalTokens,
    *,
    separator: str = "\n",
) -> None:
    """Give the model rows for the functional tokens, in place, input and output alike.

    An opener starts as the mean of the rows of its description's words, so that at first it means
    what the words mean. A closer starts as what ends a step in plain text, ``separator``, moved a
    little towards its description, so that closers differ.
    """
    make_room(model, tokenizer)
    matrices = (model.get_input_embeddings(), model.get_output_embeddings())
    for weight in {id(m): _weight(m) for m in matrices if m is not None}.values():
        for token, row in _first_rows(weight, tokenizer, tokens, separator).items():
            weight[token] = row


def rows_are_untrained(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: FunctionalTokens,
    *,
    separator: str = "\n",
) -> bool:
    """Whether the input rows of all functional tokens are as :func:`add_rows` makes them."""
    weight = _weight(model.get_input_embeddings()).detach()
    first = _first_rows(weight, tokenizer, tokens, separator)
    return all(torch.allclose(weight[token], row, atol=1e-6) for token, row in first.items())


def _first_rows(
    weight: torch.Tensor,
    tokenizer: PreTrainedTokenizerBase,
    tokens: FunctionalTokens,
    separator: str,
) -> dict[int, torch.Tensor]:
    end = weight[tokenizer.encode(separator, add_special_tokens=False)].mean(0)
    rows = {}
    for function in tokens.grammar.functions.values():
        words = tokenizer.encode(f"{function.description}:", add_special_tokens=False)
        meaning = weight[words].mean(0)
        rows[tokens.openers[function.name]] = meaning
        rows[tokens.closers[function.name]] = 0.9 * end + 0.1 * meaning
    return rows


def make_room(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the model a row for each id of its tokenizer. The matrix never shrinks: models often have
    more rows than their tokenizer has ids."""
    if _weight(model.get_input_embeddings()).shape[0] < len(tokenizer):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)


def _weight(module: torch.nn.Module) -> torch.Tensor:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight


def token_row_targets(model: PreTrainedModel, tokens: FunctionalTokens) -> dict[str, list[int]]:
    """PEFT's ``trainable_token_indices`` for the functional tokens: the rows of the input matrix and
    of the output matrix, whether or not the two are tied.

    Use as ``LoraConfig(trainable_token_indices=token_row_targets(model, tokens), ...)`` and save with
    ``save_embedding_layers=False``: only the new rows belong to the adapter.
    """
    names = {id(module): name for name, module in model.named_modules()}
    matrices = (model.get_input_embeddings(), model.get_output_embeddings())
    return {names[id(m)].rsplit(".", 1)[-1]: list(tokens.ids) for m in matrices if m is not None}
