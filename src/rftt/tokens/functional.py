"""Functional tokens: each function's opener and closer as one id in a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen
from transformers import PreTrainedTokenizerBase

from rftt.tokens.grammar import Grammar


@frozen
class StepSpan:
    """The place of one step in a sequence of ids: ``ids[start:end]``, opener and closer included."""

    function: str
    start: int
    end: int
    closed: bool
    """Whether the step ends with its closer."""


@frozen(eq=False)
class FunctionalTokens:
    """The ids of a grammar's openers and closers in a tokenizer.

    Make one with :meth:`add` (new tokens) or :meth:`find` (a tokenizer that has them already).
    """

    grammar: Grammar
    openers: dict[str, int]
    closers: dict[str, int]

    @staticmethod
    def add(tokenizer: PreTrainedTokenizerBase, grammar: Grammar) -> FunctionalTokens:
        """Add every opener and closer to the tokenizer, in place, as one special token each.

        The model needs rows for them: see :func:`rftt.tokens.embeddings.initialize_token_embeddings`.

        Raises ``ValueError`` naming the tags if the tokenizer has one of them already.
        """
        tags = _tags(grammar)
        vocabulary = tokenizer.get_vocab()
        taken = [tag for tag in tags if tag in vocabulary]
        if taken:
            raise ValueError(
                f"the tokenizer already uses {', '.join(taken)}: rename these functions, or call "
                "FunctionalTokens.find if the tags are meant to be the functional tokens"
            )
        tokenizer.add_special_tokens(
            {"additional_special_tokens": tags}, replace_extra_special_tokens=False
        )
        return FunctionalTokens.find(tokenizer, grammar)

    @staticmethod
    def find(tokenizer: PreTrainedTokenizerBase, grammar: Grammar) -> FunctionalTokens:
        """Look up the ids of tags that the tokenizer has.

        Raises ``ValueError`` naming the missing tags, or a tag that is split into several ids.
        """
        vocabulary = tokenizer.get_vocab()
        missing = [tag for tag in _tags(grammar) if tag not in vocabulary]
        if missing and len(missing) < len(_tags(grammar)):
            # FunctionalTokens.add would refuse the tags that are there.
            known = [tag for tag in _tags(grammar) if tag in vocabulary]
            raise ValueError(
                f"the tokenizer has no token for {', '.join(missing)}, but has {', '.join(known)}: pass "
                "the grammar that it was made for, or rename the functions whose tags it has"
            )
        if missing:
            raise ValueError(
                f"the tokenizer has no token for {', '.join(missing)}: add them with "
                "FunctionalTokens.add(tokenizer, grammar) and "
                "rftt.tokens.embeddings.initialize_token_embeddings(model, tokenizer, tokens)"
            )
        for tag in _tags(grammar):
            ids = tokenizer.encode(tag, add_special_tokens=False)
            if ids != [vocabulary[tag]]:
                raise ValueError(f"the tokenizer splits {tag} into ids {ids}: it must be a single one")
        functions = grammar.functions.values()
        return FunctionalTokens(
            grammar,
            openers={f.name: vocabulary[f.opener] for f in functions},
            closers={f.name: vocabulary[f.closer] for f in functions},
        )

    @property
    def ids(self) -> tuple[int, ...]:
        """All openers and closers."""
        return (*self.openers.values(), *self.closers.values())

    def encode(self, function: str, body: Sequence[int]) -> tuple[int, ...]:
        """Encode one step: opener, body, closer.

        Raises:
            ValueError: if the body holds a functional token.
        """
        if forged := set(self.ids).intersection(body):
            raise ValueError(
                f"a step of {function!r}: its body holds the functional token {min(forged)}"
            )
        return (self.openers[function], *body, self.closers[function])

    def split(self, ids: Sequence[int]) -> list[StepSpan]:
        """Split ids into steps. The last step may lack its closer.

        Raises:
            ValueError: naming the position of an id that does not belong there.
        """
        opened_by = {i: name for name, i in self.openers.items()}
        special = set(self.ids)
        spans: list[StepSpan] = []
        function: str | None = None
        start = 0
        for position, token in enumerate(ids):
            if function is None:
                if token not in opened_by:
                    raise ValueError(f"position {position}: id {token} stands where a step must open")
                function, start = opened_by[token], position
            elif token == self.closers[function]:
                spans.append(StepSpan(function, start, position + 1, closed=True))
                function = None
            elif token in special:
                raise ValueError(
                    f"position {position}: id {token} stands inside the body of {function!r}"
                )
        if function is not None:
            spans.append(StepSpan(function, start, len(ids), closed=False))
        return spans


def _tags(grammar: Grammar) -> list[str]:
    functions = grammar.functions.values()
    return [f.opener for f in functions] + [f.closer for f in functions]
