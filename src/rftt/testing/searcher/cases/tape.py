"""A policy and a verifier whose replies hypothesis draws, and which are played again from a tape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from attrs import define, field, frozen
from hypothesis import strategies as st

from rftt.interfaces import GenerationRequest, Policy, State, Step, Verdict, Verifier
from rftt.problems.problem import Problem
from rftt.testing.searcher.cases.replies import completions, priors, verdicts
from rftt.tokens.grammar import Grammar

T = TypeVar("T")


class DiffersError(Exception):
    """A search that is replayed takes another turn."""


@define(eq=False)
class Tape:
    """Replies in the order in which they were first drawn, each with its kind."""

    replies: list[tuple[str, Any]] = field(factory=list)
    at: int = 0

    def next(self, kind: str, draw: Callable[[], T]) -> T:
        if self.at == len(self.replies):
            self.replies.append((kind, draw()))
        first_kind, reply = self.replies[self.at]
        if kind != first_kind:
            raise DiffersError(f"it needs a {kind} where it needed a {first_kind}")
        self.at += 1
        found: T = reply
        return found

    def rewound(self) -> Tape:
        return Tape(self.replies)


@frozen(eq=False)
class Drawn(Policy, Verifier):
    """Reply from a tape for each problem, and where that ends, with what hypothesis draws."""

    grammar: Grammar
    tapes: Mapping[str, Tape]
    rewards: tuple[float, float]
    data: st.DataObject | None

    def _next(self, kind: str, problem: Problem, strategy: st.SearchStrategy[T]) -> T:
        return self.tapes[problem.id].next(kind, lambda: self._draw(strategy))

    def _draw(self, strategy: st.SearchStrategy[T]) -> T:
        if self.data is None:
            raise DiffersError("it needs more replies")
        return self.data.draw(strategy)

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        return [self._next("prior", s.problem, priors(self.grammar.legal(s.last))) for s in states]

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        return [
            self._next("completion", each.state.problem, completions(self.grammar, each))
            for each in requests
        ]

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [
            self._next("verdict", state.problem, verdicts(len(state.steps), self.rewards))
            for state in states
        ]
