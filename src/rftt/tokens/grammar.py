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

    Attributes:
        name: the name of its tag: lower-case letters, digits and ``_``.
        description: an instruction in plain words. A prompted policy asks with it, and the embedding of
            a new functional token starts as the mean of its words.

    Raises:
        ValueError: if the name cannot be a tag, or the description is empty.
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
        """Return the tag that opens a step."""
        return f"<{self.name}>"

    @property
    def closer(self) -> str:
        """Return the tag that closes a step."""
        return f"</{self.name}>"


def _by_name(functions: Iterable[Function]) -> dict[str, Function]:
    listed = tuple(functions)
    named = {function.name: function for function in listed}
    if len(named) != len(listed):
        raise ValueError(f"two functions share a name in {[f.name for f in listed]}")
    return named


def _as_tuples(followers: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(names) for name, names in followers.items()}


@frozen(eq=False)
class Grammar:
    """Which functions exist, which may open a solution, and which may follow which.

    Attributes:
        functions: the functions, by name.
        start: names of those that may open a solution.
        followers: for each name, the names that may come next. A function without followers is
            terminal: its step ends the solution.

    Raises:
        ValueError: naming the function at fault, if two share a name, a follower or a start is unknown,
            a function cannot be reached, or none is terminal.
    """

    functions: Mapping[str, Function] = field(converter=_by_name)
    start: tuple[str, ...] = field(converter=tuple[str, ...])
    followers: Mapping[str, tuple[str, ...]] = field(converter=_as_tuples)

    def __attrs_post_init__(self) -> None:
        for name in self.followers:
            if name not in self.functions:
                raise ValueError(f"grammar: followers are given for {name!r}, which is not a function")
        for name, followers in [("the question", self.start), *self.followers.items()]:
            for follower in followers:
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
        """Return the names that may follow ``last``; ``None`` stands for the question.

        Raises:
            ValueError: if there is no function ``last``.
        """
        if last is None:
            return self.start
        if last not in self.functions:
            raise ValueError(f"{last!r} is not a function of this grammar: {', '.join(self.functions)}")
        return self.followers.get(last, ())

    def is_terminal(self, name: str) -> bool:
        """Return whether a step of this function ends the solution."""
        return not self.legal(name)

    def violation(self, path: Sequence[str]) -> str | None:
        """Return what is wrong with a sequence of function names, ``None`` if it is legal."""
        last: str | None = None
        for position, name in enumerate(path):
            if name not in self.legal(last):
                return f"step {position}: {name!r} may not follow {last or 'the question'!r}"
            last = name
        return None

    @staticmethod
    def default() -> Grammar:
        """Return the grammar of the paper: its eight functions and which may follow which."""
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
