"""A hypothesis state machine that searches two trees with arbitrary replies, round by round.

Each round is the engine's own, with a policy and a verifier whose replies are drawn. After each, the
search of a tree is replayed with no other tree, and at the end by a copy of the strategy that has
searched nothing: nothing may differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from attrs import define, field
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from rftt.problems.problem import Problem
from rftt.search.budget import Budget, SearchConfig
from rftt.search.engine.engine import resume_search
from rftt.search.searcher import Searcher
from rftt.search.tree.tree import SearchTree
from rftt.testing.copies import copied, difference
from rftt.testing.finite.strategies import grammars
from rftt.testing.searcher.bench import AbandonedError, Bench
from rftt.testing.searcher.calls.watched import Watched
from rftt.testing.searcher.cases.replay import RaisedError, Replay, ReplayedError
from rftt.testing.searcher.cases.smallest import Smallest
from rftt.testing.searcher.cases.tape import DiffersError, Drawn, Tape
from rftt.testing.searcher.promises import (
    BatchBroken,
    ContractViolation,
    EndsBroken,
    ResumeBroken,
    StateBroken,
)
from rftt.tokens.grammar import Grammar

_ROLLOUTS = st.integers(1, 5)
_NODES = st.none() | st.none() | st.integers(1, 8)


@define(eq=False)
class _Side:
    """One of the trees, with the replies to it and the budget that each of its rounds had."""

    tree: SearchTree
    tape: Tape = field(factory=Tape)
    budgets: list[Budget] = field(factory=list)
    is_over: bool = False


class AskTell(RuleBasedStateMachine):
    """Two trees, searched at the same time by one instance of a strategy.

    Args:
        bench: the strategy; each run has a copy of it, where it can be copied, so that a strategy with
            state fails in the same way each time.
        smallest: is told of each case that breaks a promise.
    """

    def __init__(self, bench: Bench, smallest: Smallest) -> None:
        super().__init__()
        smallest.begin()
        self.bench, self.smallest = bench, smallest
        self.watched = Watched(bench.fresh(), bench.skipped, twice=True)
        self.is_over = False
        """Whether something is broken, or cannot go on."""

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

    @precondition(lambda self: not self.is_over and not all(side.is_over for side in self.sides))
    @rule(data=st.data())
    def search_a_round(self, data: st.DataObject) -> None:
        """Search a round of one tree or of both, with a budget for one rollout or more in each."""
        with self._watching():
            self._search_a_round(data)

    def _search_a_round(self, data: st.DataObject) -> None:
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
                with suppress(DiffersError, RaisedError):
                    self._replay(side, 1)

    @precondition(lambda self: not self.is_over and any(side.is_over for side in self.sides))
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        """Resume a search that is over; then begin another in its place."""
        with self._watching():
            self._resume(data)

    def _resume(self, data: st.DataObject) -> None:
        side = data.draw(st.sampled_from([side for side in self.sides if side.is_over]))
        # A copy: what is written on it is not written when the search is replayed.
        tree = copied(side.tree)
        self._search([_Side(tree, side.tape)], self.watched, side.budgets[-1], data)
        if tree.rounds > side.tree.rounds:
            found = "the search had ended, and asked for more when it was resumed"
            self.watched.demand(tree, [EndsBroken(found)])
        self.sides[self.sides.index(side)] = self._new_side()

    @precondition(lambda self: self.is_over)
    @rule()
    def rest(self) -> None:
        """Do nothing; hypothesis needs something to do."""

    def teardown(self) -> None:
        """Replay each search with a copy of the strategy that has searched nothing."""
        if self.is_over or StateBroken.promise in self.bench.skipped:
            return
        with self._watching():
            for side in getattr(self, "sides", ()):
                if self._told(side):
                    self._compare_with_fresh(side)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """End the case where it cannot go on."""
        try:
            with self.smallest.watching():
                yield
        except AbandonedError:
            self.is_over = True
        except BaseException:
            # hypothesis, too, ends a case amid a round.
            self.is_over = True
            raise

    def _compare_with_fresh(self, side: _Side) -> None:
        try:
            differs = difference(side.tree, self._replay(side, self._told(side), fresh=True))
        except DiffersError as error:
            differs = str(error)
        except RaisedError as error:
            differs = f"it raises {error.__cause__!r}"
        if differs:
            found = (
                "the search goes on as below; replayed with a copy of the strategy that has searched "
                f"nothing, {differs}"
            )
            self.watched.demand(side.tree, [StateBroken(found)])

    def _told(self, side: _Side) -> int:
        return self.watched.told[side.tree.problem.id]

    def _search(
        self, sides: Sequence[_Side], searcher: Searcher, budget: Budget, data: st.DataObject | None
    ) -> None:
        """Search one round."""
        drawn = Drawn(
            self.grammar, {s.tree.problem.id: s.tape for s in sides}, self.bench.settings.rewards, data
        )
        resume_search(
            [side.tree for side in sides], searcher, drawn, drawn,
            SearchConfig(budget, max_depth=self.max_depth), on_round=lambda trees, finished: False,
        )  # fmt: skip

    def _compare_with_replay(self, side: _Side, is_broken: bool = False, was_told: bool = True) -> None:
        try:
            replayed = self._replay(side, self._told(side))
            differs = difference(side.tree, replayed) if was_told else None
        except DiffersError as error:
            differs = str(error)
        except RaisedError as error:
            differs = None if is_broken else f"it raises {error.__cause__!r}"
        if differs:
            others = [other.tree for other in self.sides if other is not side and other.budgets]
            replayed_how = "replayed with no other tree" if others else "replayed"
            found = f"the search goes on as below; {replayed_how}, {differs}"
            self.watched.demand(
                side.tree, [BatchBroken(found) if others else StateBroken(found)], others
            )

    def _replay(self, side: _Side, rounds: int, fresh: bool = False) -> SearchTree:
        """Search the same once more with no other tree, up to the ask after so many rounds."""
        replayed = _Side(self._new_tree(side.tree.problem), side.tape.rewound())
        searcher = self.bench.fresh() if fresh else self.watched.searcher
        replay = Replay(searcher, self.watched.asked, rounds)
        with suppress(ReplayedError):
            for budget in side.budgets[: rounds + 1]:
                self._search([replayed], replay, budget, None)
        return replayed.tree
