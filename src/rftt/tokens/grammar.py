"""Functions and the grammar that says which may follow which.

The default is the grammar of "Reasoning with Reinforced Functional Token Tuning"
(arXiv 2502.13389): eight kinds of reasoning step, from ``clarify`` to ``output``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from attrs import field, frozen

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


@frozen
class Function:
    """One kind of reasoning step.

    ``description`` is an instruction in plain words. A prompted policy asks with it, and the
    embedding of a new token starts from the words it is made of.
    """

    name: str
    description: str

    def __attrs_post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ValueError(
                f"function name {self.name!r} is not a tag name: use lower-case letters, digits and '_'"
            )
        if not self.description.strip():
            raise ValueError(f"function {self.name!r} needs a description: its token starts from it")

    @property
    def opener(self) -> str:
        return f"<{self.name}>"

    @property
    def closer(self) -> str:
        return f"</{self.name}>"


def _by_name(functions: Iterable[Function]) -> dict[str, Function]:
    listed = tuple(functions)
    named = {function.name: function for function in listed}
    if len(named) != len(listed):
        raise ValueError(f"two functions share a name in {[f.name for f in listed]}")
    return named


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


def _table(followers: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(after) for name, after in followers.items()}


@frozen(eq=False)
class Grammar:
    """Which functions exist, which may open a solution, and which may follow which.

    ``followers`` maps a function's name to the names that may come next; a function that maps to
    nothing is terminal: its step ends the solution.

    Raises ``ValueError`` naming the function at fault when a follower or a start is unknown, when
    a function cannot be reached, or when no function is terminal.
    """

    functions: Mapping[str, Function] = field(converter=_by_name)
    start: tuple[str, ...] = field(converter=_names)
    followers: Mapping[str, tuple[str, ...]] = field(converter=_table)

    def __attrs_post_init__(self) -> None:
        for name in self.followers:
            if name not in self.functions:
                raise ValueError(f"grammar: followers are given for {name!r}, which is not a function")
        for name, after in [("the question", self.start), *self.followers.items()]:
            for follower in after:
                if follower not in self.functions:
                    known = ", ".join(self.functions)
                    raise ValueError(
                        f"grammar: {name} may be followed by {follower!r}, which is unknown; "
                        f"known: {known}"
                    )
        unreachable = set(self.functions) - self._reachable()
        if unreachable:
            raise ValueError(f"grammar: {sorted(unreachable)} cannot be reached from the question")
        if not any(self.is_terminal(name) for name in self.functions):
            raise ValueError("grammar: no function is terminal, so no solution could end")

    def _reachable(self) -> set[str]:
        seen: set[str] = set()
        waiting = list(self.start)
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting.extend(self.followers.get(name, ()))
        return seen

    def legal(self, last: str | None) -> tuple[str, ...]:
        """Names that may follow ``last``; ``None`` stands for the question."""
        if last is None:
            return self.start
        if last not in self.functions:
            raise ValueError(f"{last!r} is not a function of this grammar: {', '.join(self.functions)}")
        return self.followers.get(last, ())

    def is_terminal(self, name: str) -> bool:
        """Whether a step of this function ends the solution."""
        return not self.legal(name)

    def violation(self, path: Sequence[str]) -> str | None:
        """What is wrong with a sequence of function names, or ``None`` if it is legal."""
        last: str | None = None
        for position, name in enumerate(path):
            if name not in self.legal(last):
                return f"step {position}: {name!r} may not follow {last or 'the question'!r}"
            last = name
        return None

    @staticmethod
    def default() -> Grammar:
        """The eight functions of the paper and who may follow whom."""
        return Grammar(
            functions=(
                Function("clarify", "restate the question"),
                Function("analysis", "plan the first step"),
                Function("subquestion", "ask and answer a smaller question"),
                Function("next_step", "take one step"),
                Function("direct_answer", "give the answer"),
                Function("verify", "check the last step"),
                Function("refine", "mend the last step"),
                Function("output", "state the final answer"),
            ),
            start=("clarify", "analysis", "subquestion", "next_step"),
            followers={
                "clarify": ("analysis", "subquestion", "next_step", "direct_answer"),
                "analysis": ("subquestion", "next_step", "direct_answer"),
                "subquestion": ("next_step", "direct_answer"),
                "next_step": ("next_step", "direct_answer", "subquestion", "verify", "output"),
                "direct_answer": ("output", "verify"),
                "verify": ("next_step", "refine", "direct_answer", "subquestion", "verify", "output"),
                "refine": ("next_step", "direct_answer", "output", "subquestion", "verify"),
                "output": (),
            },
        )
