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

    Raises:
        ValueError: if the tokenizer makes nothing of the separator or of a description.
    """
    resize_token_embeddings(model, tokenizer)
    for weight in embedding_matrices(model):
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
    weight = embedding_matrices(model)[0]
    initial = _initial_embeddings(weight, tokenizer, tokens, separator)
    return all(torch.allclose(weight[token], e, atol=1e-6) for token, e in initial.items())


def _initial_embeddings(
    weight: Float[Tensor, "vocab hidden"],
    tokenizer: PreTrainedTokenizerBase,
    tokens: FunctionalTokens,
    separator: str,
) -> dict[int, Float[Tensor, " hidden"]]:
    end = weight[_encode(tokenizer, separator, "separator")].mean(0)
    embeddings = {}
    for function in tokens.grammar.functions.values():
        text, what = f"{function.description}:", f"the description of {function.name!r}"
        meaning = weight[_encode(tokenizer, text, what)].mean(0)
        embeddings[tokens.openers[function.name]] = meaning
        embeddings[tokens.closers[function.name]] = 0.9 * end + 0.1 * meaning
    return embeddings


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, what: str) -> list[int]:
    """Encode a text of which embeddings are to be the mean: of no ids it would be NaN."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    if not ids:
        raise ValueError(
            f"{what}: the tokenizer makes no ids of {text!r}, so there are no embeddings to start from; "
            "give a text that it knows"
        )
    return ids


def embedding_matrices(model: PreTrainedModel) -> list[Float[Tensor, "vocab hidden"]]:
    """Return the input matrix and the output matrix of a model, one where they are tied. They share
    memory with the model and take no gradients."""
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = [_weight(module) for module in modules if module is not None]
    return [weight.detach() for weight in {id(weight): weight for weight in weights}.values()]


def check_token_embeddings(model: PreTrainedModel, tokens: FunctionalTokens) -> None:
    """Raise ``ValueError`` if a model cannot have been taught the functional tokens: it has no
    embeddings for them, or equal ones for two of them, as the spare ones of padded vocabularies are."""
    remedy = (
        "call rftt.tokens.embeddings.initialize_token_embeddings(model, tokenizer, tokens), tune the "
        "model, and save model and tokenizer"
    )
    names = {i: f.opener for f in tokens.grammar.functions.values() for i in [tokens.openers[f.name]]}
    names |= {i: f.closer for f in tokens.grammar.functions.values() for i in [tokens.closers[f.name]]}
    for weight in embedding_matrices(model):
        if missing := [name for i, name in names.items() if i >= len(weight)]:
            raise ValueError(
                f"the model has {len(weight)} embeddings, and so none for {', '.join(missing)}: {remedy}"
            )
        seen: dict[tuple[float, ...], str] = {}
        for i, name in names.items():
            row = tuple(weight[i].tolist())
            if row in seen:
                raise ValueError(
                    f"the model has the same embedding for {seen[row]} and {name}, so it was not taught "
                    f"them: {remedy}"
                )
            seen[row] = name


def resize_token_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the model an embedding for each id of its tokenizer, in place.

    The matrices never shrink: models often have more embeddings than their tokenizer has ids.
    """
    if min(map(len, embedding_matrices(model))) < len(tokenizer):
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
