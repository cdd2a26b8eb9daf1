"""Whole searches of finite problems through the engine: budgets, seeds, batches, stopping, resuming."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from attrs import frozen
from hypothesis import strategies as st

from rftt.finite.problem import FiniteProblem
from rftt.interfaces import Extension, Policy, Segment, State
from rftt.problems.problem import Problem
from rftt.search.budget import Budget
from rftt.search.contract.promises import (
    AnswerBroken,
    BatchBroken,
    BudgetBroken,
    ContractViolation,
    ResumeBroken,
    SeedBroken,
)
from rftt.search.contract.scenario import difference, reloaded, tree_text
from rftt.search.contract.watched import Watched
from rftt.search.engine import OnRound, grow, run_search
from rftt.search.merge import commit_to
from rftt.search.searcher import Searcher
from rftt.search.tree import SearchTree

_SECONDS = 0.002
_MAX_DEPTH = 6

_some = st.integers(1, 12)
budgets: st.SearchStrategy[Budget] = st.one_of(
    st.builds(Budget, rollouts=_some),
    st.builds(Budget, nodes=_some),
    st.builds(Budget, tokens=_some),
    st.builds(Budget, policy_calls=st.integers(1, 4)),
    st.builds(Budget, rollouts=_some, nodes=_some, tokens=_some, policy_calls=st.integers(1, 4)),
)
"""Each kind of limit that is counted, alone and together with the others."""


class Metered(Policy):
    """A policy that counts what each problem is given, whatever its tree says."""

    def __init__(self, policy: Policy, pause: float = 0.0) -> None:
        self.grammar, self.policy, self.pause = policy.grammar, policy, pause
        self.spent: dict[str, Counter[str]] = {}

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        return self.policy.prior(states)

    def extend(self, requests: Sequence[Extension]) -> list[list[Segment]]:
        time.sleep(self.pause)
        chains = self.policy.extend(requests)
        for problem in {request.state.problem.id for request in requests}:
            self.spent.setdefault(problem, Counter())["policy_calls"] += 1
        for request, chain in zip(requests, chains, strict=True):
            tokens = sum(len(segment.ids) for segment in chain)
            spent = Counter(rollouts=1, nodes=len(chain), tokens=tokens)
            self.spent[request.state.problem.id].update(spent)
        return chains


@frozen
class Searches:
    """One strategy and one finite problem, searched in several ways that must come to the same.

    Attributes:
        searcher: the strategy.
        waived: names of promises that are not demanded.
        finite: what is searched.
        budget: for each tree.
        seed: the seed of the searches.
    """

    searcher: Searcher
    waived: Collection[str]
    finite: FiniteProblem
    budget: Budget
    seed: int = 0

    def hold(self, stop: int) -> None:
        """Raise the promise that is broken; ``stop`` is the round after which a search is stopped."""
        problems = self.finite.problems(3)
        trees = self.hold_budget(problems)
        for problem, tree in zip(problems, trees, strict=True):
            (alone,), (again,) = self._run([problem]), self._run([problem])
            self._compare(alone, again, SeedBroken, "a search, and the same once more")
            self._compare(alone, tree, BatchBroken, "a search alone, and beside two others")
        for tree, other in zip(trees, reversed(self._run(problems[::-1])), strict=True):
            self._compare(tree, other, BatchBroken, "a search in a batch, and in its reverse")
        stopped = self._run(problems, on_round=_until(stop))
        loaded = [reloaded(tree) for tree in stopped]
        resumed = grow(
            loaded, self.searcher, self.finite.policy, self.finite.verifier,
            budget=self.budget, seed=self.seed,
        )  # fmt: skip
        for tree, other in zip(trees, resumed, strict=True):
            what = f"a search, and the same stopped after round {stop - 1}, saved, loaded and resumed"
            self._compare(tree, other, ResumeBroken, what)
        self._hold_commitment(stopped)

    def _hold_commitment(self, stopped: Sequence[SearchTree]) -> None:
        """Commit each search to the first of its first steps, and go on under watch."""
        watched = Watched(self.searcher, self.waived)
        committed = [
            commit_to(tree, tree.children(0)[0], discount=watched.discount)
            for tree in stopped
            if tree.children(0)
        ]
        grow(
            committed, watched, self.finite.policy, self.finite.verifier,
            budget=self.budget, seed=self.seed,
        )  # fmt: skip

    def hold_budget(self, problems: Sequence[Problem], pause: float = 0.0) -> list[SearchTree]:
        """Search under watch, and count what is spent apart from the trees.

        Args:
            problems: what is searched.
            pause: seconds that each round takes at the least.
        """
        watched = Watched(self.searcher, self.waived)
        metered = Metered(self.finite.policy, pause)
        trees = self._run(problems, watched, metered)
        for tree in trees:
            spent = metered.spent.get(tree.problem.id, Counter())
            for kind in ("rollouts", "nodes", "tokens", "policy_calls"):
                limit = getattr(self.budget, kind)
                if limit is not None and spent[kind] > limit:
                    found = f"{spent[kind]} {kind} were spent; the limit is {limit}"
                    watched.demand(tree, [BudgetBroken(found)])
            if self.budget.seconds and pause > self.budget.seconds and spent["policy_calls"] > 1:
                found = f"{spent['policy_calls']} rounds began; the time was up after one"
                watched.demand(tree, [BudgetBroken(found)])
            if not spent and not self.budget.seconds:
                watched.demand(tree, [AnswerBroken(f"{self.budget} bought nothing")])
        return trees

    def _run(
        self,
        problems: Sequence[Problem],
        searcher: Searcher | None = None,
        policy: Policy | None = None,
        on_round: OnRound | None = None,
    ) -> list[SearchTree]:
        return run_search(
            problems, searcher or self.searcher, policy or self.finite.policy, self.finite.verifier,
            budget=self.budget, seed=self.seed, max_depth=_MAX_DEPTH, on_round=on_round,
        )  # fmt: skip

    def _compare(
        self, one: SearchTree, other: SearchTree, broken: type[ContractViolation], what: str
    ) -> None:
        if broken.promise not in self.waived and (differs := difference(one, other)):
            scenario = f"The one:\n{tree_text(one)}\n\nThe other:\n{tree_text(other)}"
            raise broken(f"{what}: {differs}", scenario)


def _until(round_number: int) -> OnRound:
    rounds = iter(range(1, round_number))
    return lambda trees, finished: next(rounds, None) is not None


def hold_seconds(searcher: Searcher, waived: Collection[str], finite: FiniteProblem) -> None:
    """Raise what is broken if every round takes longer than the whole search may."""
    searches = Searches(searcher, waived, finite, Budget(seconds=_SECONDS, rollouts=64))
    searches.hold_budget(finite.problems(1), pause=2 * _SECONDS)
