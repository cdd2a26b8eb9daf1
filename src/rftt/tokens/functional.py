"""Functional tokens: each function's opener and closer as one id in a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen
from transformers import PreTrainedTokenizerBase

from rftt.tokens.grammar import Grammar


@frozen
class Step:
    """A function's name and the ids of the body between its opener and closer."""

    function: str
    body: tuple[int, ...]
    is_closed: bool = True


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

        The model needs rows for them: see :func:`rftt.tokens.embeddings.add_rows`.

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
        if missing:
            raise ValueError(
                f"the tokenizer has no token for {', '.join(missing)}: add them with "
                "FunctionalTokens.add(tokenizer, grammar) and rftt.tokens.add_rows(model, ...)"
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

    def encode(self, steps: Sequence[Step]) -> list[int]:
        """Steps as ids: opener, body, closer, and so on.

        Raises ``ValueError`` if a body holds a functional token or a step that is not the last is
        open.
        """
        special = set(self.ids)
        ids: list[int] = []
        for position, step in enumerate(steps):
            if special.intersection(step.body):
                raise ValueError(
                    f"step {position} ({step.function!r}): its body holds a functional token"
                )
            if not step.is_closed and position + 1 < len(steps):
                raise ValueError(f"step {position} ({step.function!r}) is open but is not the last")
            ids.append(self.openers[step.function])
            ids.extend(step.body)
            if step.is_closed:
                ids.append(self.closers[step.function])
        return ids

    def decode(self, ids: Sequence[int]) -> list[Step]:
        """Ids as steps; the inverse of :meth:`encode`. A last step may lack its closer.

        Raises ``ValueError`` naming the position of an id that does not belong there.
        """
        opened_by = {i: name for name, i in self.openers.items()}
        special = set(self.ids)
        steps: list[Step] = []
        current: str | None = None
        body: list[int] = []
        for position, token in enumerate(ids):
            if current is None:
                if token not in opened_by:
                    raise ValueError(f"position {position}: id {token} stands where a step must open")
                current, body = opened_by[token], []
            elif token == self.closers[current]:
                steps.append(Step(current, tuple(body)))
                current = None
            elif token in special:
                raise ValueError(
                    f"position {position}: id {token} stands inside the body of {current!r}"
                )
            else:
                body.append(token)
        if current is not None:
            steps.append(Step(current, tuple(body), is_closed=False))
        return steps


def _tags(grammar: Grammar) -> list[str]:
    functions = grammar.functions.values()
    return [f.opener for f in functions] + [f.closer for f in functions]
