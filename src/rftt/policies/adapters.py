"""Loading an adapter of PEFT: its base, its tokenizer, and the embeddings of the tokens that it adds."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rftt.tokens.embeddings import embedding_matrices, resize_token_embeddings

_LOG: Final = logging.getLogger(__name__)

ADAPTER: Final = "adapter_config.json"
"""The file that makes a folder an adapter."""


def load_base(path_or_name: Path | str, dtype: torch.dtype) -> PreTrainedModel:
    """Load a causal language model that is not an adapter."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path_or_name, dtype=dtype)
    model.eval()
    return model


def load_adapter(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the base of an adapter with the adapter merged in, and the tokenizer.

    Tokens that the adapter's tokenizer has and its base's lacks need embeddings: those that the adapter
    trained, or those that the base holds in advance. Others would be lost in silence.

    Raises:
        FileNotFoundError: if the base is not found, saying where it was looked for.
        ValueError: naming the tokens for which neither adapter nor base holds an embedding.
    """
    place = _base_of(folder)
    try:
        model = load_base(place, dtype)
    except OSError as error:
        raise FileNotFoundError(
            f"adapter {folder}: its base model {str(place)!r} is neither a folder seen from here or "
            "from the adapter, nor a model that transformers can find; write an absolute path as "
            f"base_model_name_or_path in {folder / ADAPTER}"
        ) from error
    before = _tokenizer(place)
    tokenizer = _tokenizer(folder)
    if tokenizer is None:
        if before is None:
            raise FileNotFoundError(
                f"adapter {folder}: neither it nor its base {place} holds a tokenizer; write one with "
                f"tokenizer.save_pretrained({str(folder)!r})"
            )
        _LOG.warning(
            "adapter %s holds no tokenizer, so that of its base %s is taken, which lacks tokens that "
            "were added in training; write it with tokenizer.save_pretrained(%r)",
            folder, place, str(folder),
        )  # fmt: skip
        tokenizer = before
    new = _new_tokens(tokenizer, before, model)
    resize_token_embeddings(model, tokenizer)
    ids = list(new.values())
    initial = [matrix[ids].clone() for matrix in embedding_matrices(model)]
    merged = PeftModel.from_pretrained(model, folder).merge_and_unload().eval()
    _check_new_tokens(folder, new, initial, [m[ids] for m in embedding_matrices(merged)])
    return merged, tokenizer


def _base_of(folder: Path) -> Path | str:
    """Return the folder or the name of an adapter's base. A relative path is looked for from here, and
    then from the adapter."""
    config: dict[str, Any] = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
    name = config.get("base_model_name_or_path")
    if not name:
        raise FileNotFoundError(
            f"adapter {folder} names no base model; write its path as base_model_name_or_path in "
            f"{folder / ADAPTER}"
        )
    for candidate in (Path(name), folder / name, folder.parent / name):
        if (candidate / "config.json").is_file():
            return candidate
    return str(name)


def _tokenizer(place: Path | str) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of a folder, or of a name; ``None`` if there is none."""
    if Path(place).is_dir() and not any(Path(place).glob("tokenizer*")):
        return None
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place)
    return loaded


def _new_tokens(
    tokenizer: PreTrainedTokenizerBase, before: PreTrainedTokenizerBase | None, model: PreTrainedModel
) -> dict[str, int]:
    """Return the tokens that the base's tokenizer lacks; without one, those that its model lacks.
    Padding needs no embedding."""
    vocabulary = {t: i for t, i in tokenizer.get_vocab().items() if t != tokenizer.pad_token}
    if before is None:
        size = len(embedding_matrices(model)[0])
        return {token: i for token, i in vocabulary.items() if i >= size}
    known = before.get_vocab()
    return {token: i for token, i in vocabulary.items() if token not in known}


def _check_new_tokens(
    folder: Path, new: dict[str, int], before: Sequence[Tensor], after: Sequence[Tensor]
) -> None:
    """Raise ``ValueError`` naming new tokens whose embeddings in a matrix the adapter did not bring."""
    lost = set()
    for old, merged in zip(before, after, strict=True):
        same = (old == merged).all(1).tolist()
        lost |= {token for token, is_same in zip(new, same, strict=True) if is_same}
    if lost:
        some = sorted(lost)
        raise ValueError(
            f"adapter {folder}: neither it nor its base holds trained embeddings for {len(some)} tokens "
            f"that its tokenizer adds, such as {', '.join(some[:3])}; train them with "
            "LoraConfig(trainable_token_indices=rftt.tokens.embeddings.trainable_token_indices(model, "
            "tokens), ...), or save the base with its new embeddings and its tokenizer first and train "
            "the adapter on that"
        )
