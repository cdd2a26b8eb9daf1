"""Control ids: what a tokenizer puts before a text, and what no body may hold."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase


def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids of all special tokens: turns, beginnings and ends of text, padding, and those that
    were added as special."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added.union(tokenizer.all_special_ids))


def leading_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the ids that the tokenizer puts before a text, such as a beginning-of-sequence token;
    nothing if it puts none."""
    plain = tokenizer.encode("1", add_special_tokens=False)
    full = tokenizer.encode("1")
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return tuple(full[:start])
    return ()


def encode_question(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Encode the text that opens a context: what the tokenizer puts before a text comes first, once.

    A chat template may have written it already.
    """
    leading = leading_ids(tokenizer)
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    return ids if ids[: len(leading)] == leading else leading + ids
