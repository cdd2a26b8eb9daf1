"""A hypothesis state machine that searches two trees with arbitrary replies, round by round.

Each round is the engine's own, with a policy and a verifier whose replies are drawn. After each, the
search of a tree is replayed with no other tree: nothing may differ.
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

from rftt.interfaces import GenerationRequest, Policy, State, Step, Verdict, Verifier
from rftt.problems.problem import Problem
from rftt.search.budget import Budget, SearchConfig
from rftt.search.engine.engine import resume_search
from rftt.search.searcher import Expansion, ExpansionResult, Searcher
from rftt.search.tree.tree import SearchTree
from rftt.testing.copies import copied, difference
from rftt.testing.finite.strategies import grammars
from rftt.testing.searcher.promises import (
    BatchBroken,
    ContractViolation,
    EndsBroken,
    ResumeBroken,
    StateBroken,
)
from rftt.testing.searcher.replies import completions, priors, verdicts
from rftt.testing.searcher.scenario import asked_text
from rftt.testing.searcher.watched import Watched
from rftt.tokens.grammar import Grammar

T = TypeVar("T")

_ROLLOUTS = st.integers(1, 5)
_NODES = st.none() | st.none() | st.integers(1, 8)


class _DiffersError(Exception):
    """A search that is replayed takes another turn."""


class _RaisedError(Exception):
    """A strategy raises when its search is replayed."""


class _ReplayedError(Exception):
    """A replay has come as far as it should."""


@define(eq=False)
class _Tape:
    """Replies in the order in which they were first drawn, each with its kind."""

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
    """Reply from a tape for each problem, and where that ends, with what hypothesis draws."""

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


@define(eq=False)
class _Side:
    """One of the trees, with the replies to it and the budget that each of its rounds had."""

    tree: SearchTree
    tape: _Tape = field(factory=_Tape)
    budgets: list[Budget] = field(factory=list)
    is_over: bool = False


@define(eq=False)
class _Replay(Searcher):
    """Behave as the strategy does, as long as it asks for what it asked for the first time."""

    watched: Watched
    rounds: int

    @property
    def needs_prior(self) -> bool:  # type: ignore[override]
        return self.watched.needs_prior

    @property
    def needs_rollout_limit(self) -> bool:  # type: ignore[override]
        return self.watched.needs_rollout_limit

    @property
    def scores_partial(self) -> bool:  # type: ignore[override]
        return self.watched.scores_partial

    def is_done(self, tree: SearchTree) -> bool:
        return self._call(lambda: self.watched.searcher.is_done(tree))

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        expansions = self._call(lambda: tuple(self.watched.searcher.ask(tree, rng)))
        first = self.watched.asked.get((tree.problem.id, tree.rounds))
        if first is not None and expansions != first:
            raise _DiffersError(f"in round {tree.rounds} it asks for {asked_text(expansions)}")
        if self.rounds == 0:
            raise _ReplayedError
        self.rounds -= 1
        return expansions

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        self._call(lambda: self.watched.searcher.tell(tree, results))

    def _call(self, call: Callable[[], T]) -> T:
        try:
            return call()
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
    def search_a_round(self, data: st.DataObject) -> None:
        """Search a round of one tree or of both, with a budget for one rollout or more in each."""
        going = [side for side in self.sides if not side.is_over]
        sides = data.draw(st.sampled_from([[side] for side in going] + [going] * (len(going) - 1)))
        rounds = [side.tree.rounds for side in sides]
        told = [self._told(side) for side in sides]
        nodes = data.draw(_NODES)
        budget = Budget(
            rollouts=max(side.tree.rollouts for side in sides) + data.draw(_ROLLOUTS),
            nodes=None if nodes is None else max(len(side.tree) - 1 for side in sides) + nodes,
        )
        for side in sides:
            side.budgets.append(budget)
        try:
            self._search(sides, self.watched, budget, data)
        except (StateBroken, ResumeBroken):
            raise
        except ContractViolation:
            # It may be broken for the sole reason that the other tree is searched too.
            for side, before in zip(sides, told, strict=True):
                self._compare_with_replay(side, is_broken=True, was_told=self._told(side) > before)
            raise
        for side, before in zip(sides, rounds, strict=True):
            self._compare_with_replay(side)
            side.is_over = side.tree.rounds == before
            if self._told(side) > 1:
                # A strategy that remembers by problem now remembers another search of it.
                with suppress(_DiffersError, _RaisedError):
                    self._replay(side, 1)

    @precondition(lambda self: any(side.is_over for side in self.sides))
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        """Resume a search that is over; then begin another in its place."""
        side = data.draw(st.sampled_from([side for side in self.sides if side.is_over]))
        # A copy: what is written on it is not written when the search is replayed.
        tree = copied(side.tree)
        self._search([_Side(tree, side.tape)], self.watched, side.budgets[-1], data)
        if tree.rounds > side.tree.rounds:
            found = "the search had ended, and asked for more when it was resumed"
            self.watched.demand(tree, [EndsBroken(found)])
        self.sides[self.sides.index(side)] = self._new_side()

    def _told(self, side: _Side) -> int:
        return self.watched.told[side.tree.problem.id]

    def _search(
        self, sides: Sequence[_Side], searcher: Searcher, budget: Budget, data: st.DataObject | None
    ) -> None:
        """Search one round."""
        drawn = _Drawn(self.grammar, {s.tree.problem.id: s.tape for s in sides}, self.rewards, data)
        resume_search(
            [side.tree for side in sides], searcher, drawn, drawn,
            SearchConfig(budget, max_depth=self.max_depth), on_round=lambda trees, finished: False,
        )  # fmt: skip

    def _compare_with_replay(self, side: _Side, is_broken: bool = False, was_told: bool = True) -> None:
        try:
            replayed = self._replay(side, self._told(side))
            differs = difference(side.tree, replayed) if was_told else None
        except _DiffersError as error:
            differs = str(error)
        except _RaisedError as error:
            differs = None if is_broken else f"it raises {error.__cause__!r}"
        if differs:
            others = [other.tree for other in self.sides if other is not side and other.budgets]
            replayed_how = "replayed with no other tree" if others else "replayed"
            found = f"the search goes on as below; {replayed_how}, {differs}"
            self.watched.demand(
                side.tree, [BatchBroken(found) if others else StateBroken(found)], others
            )

    def _replay(self, side: _Side, rounds: int) -> SearchTree:
        """Search the same once more with no other tree, up to the ask after so many rounds."""
        replayed = _Side(self._new_tree(side.tree.problem), side.tape.rewound())
        replay = _Replay(self.watched, rounds)
        with suppress(_ReplayedError):
            for budget in side.budgets[: rounds + 1]:
                self._search([replayed], replay, budget, None)
        return replayed.tree


def pristine(searcher: Searcher) -> Searcher:
    """Return a copy, or the searcher itself if it cannot be copied."""
    try:
        return copy.deepcopy(searcher)
    except Exception:
        return searcher
