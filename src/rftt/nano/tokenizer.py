"""nano's tokenizer: a digit, a sign or a word of its small language is one token."""

from __future__ import annotations

import re
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rftt.problems.problem import BOXED
from rftt.tokens.grammar import Grammar

_SIGNS: Final = ("\n", ":", "+", "-", "*", "(", ")", "=", "}", " ", *"0123456789")
_PHRASES: Final = (BOXED, " so ", "first ", " hard", " easy", " ok", " not ", "right")


def build_tokenizer(grammar: Grammar) -> PreTrainedTokenizerFast:
    """Build a tokenizer that knows digits, signs and the words of the grammar's descriptions.

    All words of a description but the first carry their leading space, so that a prompt is a few
    tokens and decoding gives back the exact text.
    """
    words: dict[str, None] = {}
    for function in grammar.functions.values():
        first, *rest = function.description.split(" ")
        words.update(dict.fromkeys([first, *(f" {word}" for word in rest)]))
    vocabulary = ["<pad>", "<unk>", "<eos>", *_PHRASES, *words, *_SIGNS]
    vocabulary = list(dict.fromkeys(vocabulary))
    longest_first = sorted(vocabulary[3:], key=len, reverse=True)
    tokenizer = Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>")
    )
    pattern = Regex("|".join(re.escape(token) for token in longest_first))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
    )
