"""A hypothesis state machine that searches two trees with arbitrary replies, round by round.

Each round is the engine's own, with a policy and a verifier whose replies are drawn. After each, what a
tree was asked and told is gone through once more with no other tree around: nothing may differ.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from random import Random
from typing import Any, TypeVar

from attrs import define, field, frozen
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from rftt.finite.strategies import grammars
from rftt.interfaces import Extension, Policy, Segment, Solution, State, Verdict, Verifier
from rftt.problems.problem import Problem
from rftt.search.budget import Budget
from rftt.search.contract.promises import (
    BatchBroken,
    ContractViolation,
    EndsBroken,
    ResumeBroken,
    StateBroken,
)
from rftt.search.contract.replies import chains, priors, verdicts
from rftt.search.contract.scenario import asked_text, difference
from rftt.search.contract.watched import Watched, copied
from rftt.search.engine import grow
from rftt.search.searcher import Expansion, Growth, Searcher
from rftt.search.tree import SearchTree
from rftt.tokens.grammar import Grammar

T = TypeVar("T")


class _DiffersError(Exception):
    """A search that is gone through again takes another turn."""


class _RaisedError(Exception):
    """A strategy raises when its search is gone through again."""


@define(eq=False)
class _Tape:
    """Replies in the order in which they were first drawn, each with its kind; played again after
    ``rewound``."""

    replies: list[tuple[str, Any]] = field(factory=list)
    at: int = 0

    def next(self, kind: str, draw: Callable[[], T]) -> T:
        if self.at == len(self.replies):
            self.replies.append((kind, draw()))
        first_kind, reply = self.replies[self.at]
        if kind != first_kind:
            raise _DiffersError(f"it needs a {kind} where it needed a {first_kind}")
        self.at += 1
        found: T = reply
        return found

    def rewound(self) -> _Tape:
        return _Tape(self.replies)


@frozen(eq=False)
class _Drawn(Policy, Verifier):
    """A policy and a verifier whose replies a tape has, or else hypothesis draws."""

    grammar: Grammar
    tapes: Mapping[str, _Tape]
    rewards: tuple[float, float]
    data: st.DataObject | None

    def _next(self, kind: str, problem: Problem, strategy: st.SearchStrategy[T]) -> T:
        return self.tapes[problem.id].next(kind, lambda: self._draw(strategy))

    def _draw(self, strategy: st.SearchStrategy[T]) -> T:
        if self.data is None:
            raise _DiffersError("it needs more replies")
        return self.data.draw(strategy)

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        return [self._next("prior", s.problem, priors(self.grammar.legal(s.last))) for s in states]

    def extend(self, requests: Sequence[Extension]) -> list[list[Segment]]:
        return [self._next("sample", r.state.problem, chains(self.grammar, r)) for r in requests]

    def judge(self, problem: Problem, solutions: Sequence[Solution]) -> list[Verdict]:
        each = [verdicts(len(solution.steps), self.rewards) for solution in solutions]
        return [self._next("verdict", problem, verdict) for verdict in each]


@define(eq=False)
class _Side:
    """One of the trees, with what came of it; ``granted`` is the number of samples of each round."""

    tree: SearchTree
    tape: _Tape = field(factory=_Tape)
    granted: list[int] = field(factory=list)
    is_over: bool = False


@frozen
class _Grant(Budget):
    """So many samples a round, for each problem."""

    samples: Mapping[str, int] = field(factory=dict, kw_only=True)

    def samples_left(self, tree: SearchTree, wanted: int) -> int:
        return min(wanted, self.samples[tree.problem.id])


@frozen
class _Again(Searcher):
    """The strategy, as long as it asks for what it asked for the first time."""

    watched: Watched
    until_round: int

    @property
    def needs_prior(self) -> bool:  # type: ignore[override]
        return self.watched.needs_prior

    @property
    def judges_steps(self) -> bool:  # type: ignore[override]
        return self.watched.judges_steps

    def is_done(self, tree: SearchTree) -> bool:
        return self.watched.searcher.is_done(tree)

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        try:
            wishes = tuple(self.watched.searcher.ask(tree, rng))
        except Exception as error:
            raise _RaisedError from error
        first = self.watched.wishes.get((tree.problem.id, tree.rounds))
        if first is not None and wishes != first:
            raise _DiffersError(f"in round {tree.rounds} it asks for {asked_text(wishes)}")
        return wishes if tree.rounds < self.until_round else ()

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        try:
            self.watched.searcher.tell(tree, grown)
        except Exception as error:
            raise _RaisedError from error


class AskTell(RuleBasedStateMachine):
    """Two trees, searched at the same time by one instance of a strategy.

    Args:
        searcher: the strategy; each run has a copy of it, where it can be copied, so that a strategy
            with state fails in the same way each time.
        waived: names of promises that are not demanded.
        rewards: the lowest and the highest score.
    """

    def __init__(
        self, searcher: Searcher, waived: Collection[str], rewards: tuple[float, float]
    ) -> None:
        super().__init__()
        self.watched = Watched(pristine(searcher), waived, twice=True)
        self.rewards = rewards

    @initialize(grammar=grammars(), max_depth=st.integers(1, 5))
    def begin(self, grammar: Grammar, max_depth: int) -> None:
        self.grammar, self.max_depth = grammar, max_depth
        self.begun = 0
        self.sides = [self._new_side(), self._new_side()]

    def _new_side(self) -> _Side:
        self.begun += 1
        return _Side(self._new_tree(Problem(f"p{self.begun - 1}", "what is it?", "1")))

    def _new_tree(self, problem: Problem) -> SearchTree:
        return SearchTree(problem, self.grammar, self.max_depth)

    @precondition(lambda self: not all(side.is_over for side in self.sides))
    @rule(data=st.data())
    def one_round(self, data: st.DataObject) -> None:
        """One round of one tree or of both; of each the engine grants some samples, one at the least."""
        going = [side for side in self.sides if not side.is_over]
        sides = data.draw(st.sampled_from([[side] for side in going] + [going] * (len(going) - 1)))
        rounds = [side.tree.rounds for side in sides]
        for side in sides:
            side.granted.append(data.draw(st.integers(1, 5)))
        try:
            self._grow(sides, self.watched, {s.tree.problem.id: s.granted[-1] for s in sides}, data)
        except (StateBroken, ResumeBroken):
            raise
        except ContractViolation:
            # It may be broken for the sole reason that the other tree is searched too.
            for side, before in zip(sides, rounds, strict=True):
                self._compare_with_alone(side, is_broken=True, was_told=side.tree.rounds > before)
            raise
        for side, before in zip(sides, rounds, strict=True):
            self._compare_with_alone(side)
            side.is_over = side.tree.rounds == before
            if side.tree.rounds > 1:
                # A strategy that remembers by problem now remembers another search of it.
                with suppress(_DiffersError, _RaisedError):
                    self._alone(side, 1)

    @precondition(lambda self: any(side.is_over for side in self.sides))
    @rule(data=st.data())
    def taken_up_again(self, data: st.DataObject) -> None:
        """A search that was over goes on; then another takes its place."""
        side = data.draw(st.sampled_from([side for side in self.sides if side.is_over]))
        # A copy: what is written on it is not written when the search is gone through again.
        tree = copied(side.tree)
        self._grow([_Side(tree, side.tape)], self.watched, {tree.problem.id: 1}, data)
        if tree.rounds > side.tree.rounds:
            found = "the search was over, and asked for more when it was taken up again"
            self.watched.demand(tree, [EndsBroken(found)])
        self.sides[self.sides.index(side)] = self._new_side()

    def _grow(
        self,
        sides: Sequence[_Side],
        searcher: Searcher,
        granted: Mapping[str, int],
        data: st.DataObject | None,
    ) -> None:
        drawn = _Drawn(self.grammar, {s.tree.problem.id: s.tape for s in sides}, self.rewards, data)
        grow(
            [side.tree for side in sides], searcher, drawn, drawn,
            budget=_Grant(samples=granted), on_round=lambda trees, finished: False,
        )  # fmt: skip

    def _compare_with_alone(self, side: _Side, is_broken: bool = False, was_told: bool = True) -> None:
        try:
            alone = self._alone(side, side.tree.rounds)
            differs = difference(side.tree, alone) if was_told else None
        except _DiffersError as error:
            differs = str(error)
        except _RaisedError as error:
            differs = None if is_broken else f"it raises {error.__cause__!r}"
        if differs:
            beside = [other.tree for other in self.sides if other is not side and other.granted]
            again = "gone through again with no other tree" if beside else "gone through again"
            found = f"the search goes on as below; {again}, {differs}"
            self.watched.demand(
                side.tree, [BatchBroken(found) if beside else StateBroken(found)], beside
            )

    def _alone(self, side: _Side, rounds: int) -> SearchTree:
        """The same search with no other tree around, up to the next ask."""
        alone = _Side(self._new_tree(side.tree.problem), side.tape.rewound())
        again = _Again(self.watched, rounds)
        for granted in side.granted[: rounds + 1]:
            self._grow([alone], again, {side.tree.problem.id: granted}, None)
        return alone.tree


def pristine(searcher: Searcher) -> Searcher:
    """A copy, or the searcher itself if it cannot be copied."""
    try:
        return copy.deepcopy(searcher)
    except Exception:
        return searcher
