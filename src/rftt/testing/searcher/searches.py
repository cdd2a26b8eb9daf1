"""Complete searches of finite problems: budgets, seeds, batches, stopping, resuming."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from attrs import frozen
from hypothesis import strategies as st

from rftt.interfaces import GenerationRequest, Policy, State, Step
from rftt.problems.problem import Problem
from rftt.search.budget import Budget, SearchConfig
from rftt.search.engine.engine import resume_search, run_search
from rftt.search.engine.loop import OnRound
from rftt.search.searcher import Searcher
from rftt.search.tree.merge import commit_to
from rftt.search.tree.tree import SearchTree
from rftt.testing.copies import difference, reloaded
from rftt.testing.finite.problem import FiniteProblem
from rftt.testing.searcher.promises import (
    AnswerBroken,
    BatchBroken,
    BudgetBroken,
    ContractViolation,
    ResumeBroken,
    SeedBroken,
)
from rftt.testing.searcher.scenario import tree_text
from rftt.testing.searcher.watched import Watched

_SECONDS = 0.002
_MAX_DEPTH = 6
_SOME = st.integers(1, 12)
_FEW = st.integers(1, 4)


def budgets(needs_rollouts: bool) -> st.SearchStrategy[Budget]:
    """Each kind of limit that is counted, alone and together with the others; always with rollouts if
    they are needed."""
    rollouts = _SOME if needs_rollouts else st.none()
    return st.one_of(
        st.builds(Budget, rollouts=_SOME),
        st.builds(Budget, rollouts, nodes=_SOME),
        st.builds(Budget, rollouts, tokens=_SOME),
        st.builds(Budget, rollouts, policy_calls=_FEW),
        st.builds(Budget, rollouts=_SOME, nodes=_SOME, tokens=_SOME, policy_calls=_FEW),
    )


class Metered(Policy):
    """Count what each problem is given, whatever its tree says.

    Args:
        policy: samples.
        pause: seconds that each call takes at least.
    """

    def __init__(self, policy: Policy, pause: float = 0.0) -> None:
        self.grammar, self.policy, self.pause = policy.grammar, policy, pause
        self.spent: dict[str, Counter[str]] = {}

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        return self.policy.prior(states)

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        time.sleep(self.pause)
        completions = self.policy.extend(requests)
        for problem in {request.state.problem.id for request in requests}:
            self.spent.setdefault(problem, Counter())["policy_calls"] += 1
        for request, steps in zip(requests, completions, strict=True):
            tokens = sum(sum(step.action_mask) for step in steps)
            spent = Counter(rollouts=1, nodes=len(steps), tokens=tokens)
            self.spent[request.state.problem.id].update(spent)
        return completions


@frozen
class Searches:
    """One strategy and one finite problem, searched in several ways that must come to the same.

    Attributes:
        searcher: the strategy.
        waived: names of promises that are not demanded.
        finite: what is searched.
        budget: of each tree.
        seed: of the searches.
    """

    searcher: Searcher
    waived: Collection[str]
    finite: FiniteProblem
    budget: Budget
    seed: int = 0

    def check(self, stop: int) -> None:
        """Raise the promise that is broken; one search is stopped after ``stop`` rounds."""
        problems = self.finite.problems(3)
        trees = self.check_budget(problems)
        for problem, tree in zip(problems, trees, strict=True):
            (alone,), (again,) = self._run([problem]), self._run([problem])
            self._compare(alone, again, SeedBroken, "a search, and the same once more")
            self._compare(alone, tree, BatchBroken, "a search alone, and with two others")
        for tree, other in zip(trees, reversed(self._run(problems[::-1])), strict=True):
            self._compare(tree, other, BatchBroken, "a search in a batch, and in its reverse")
        stopped = self._run(problems, on_round=_stop_after(stop))
        resumed = self._resume([reloaded(tree) for tree in stopped], self.searcher)
        for tree, other in zip(trees, resumed, strict=True):
            what = f"a search, and the same stopped after {stop} rounds, saved, loaded and resumed"
            self._compare(tree, other, ResumeBroken, what)
        self._check_commitment(stopped)

    def _check_commitment(self, stopped: Sequence[SearchTree]) -> None:
        """Commit each search to the first of its first steps, and go on under watch."""
        watched = Watched(self.searcher, self.waived)
        committed = [
            commit_to(tree, tree.children[0][0], discount=watched.discount)
            for tree in stopped
            if tree.children[0]
        ]
        self._resume(committed, watched)

    def check_budget(self, problems: Sequence[Problem], pause: float = 0.0) -> list[SearchTree]:
        """Search under watch, and count what is spent apart from the trees.

        Args:
            problems: what is searched.
            pause: seconds that each policy call takes at least.
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

    @property
    def _config(self) -> SearchConfig:
        return SearchConfig(self.budget, self.seed, _MAX_DEPTH)

    def _run(
        self,
        problems: Sequence[Problem],
        searcher: Searcher | None = None,
        policy: Policy | None = None,
        on_round: OnRound | None = None,
    ) -> list[SearchTree]:
        return run_search(
            problems, searcher or self.searcher, policy or self.finite.policy, self.finite.verifier,
            self._config, on_round=on_round,
        )  # fmt: skip

    def _resume(self, trees: Sequence[SearchTree], searcher: Searcher) -> list[SearchTree]:
        return resume_search(trees, searcher, self.finite.policy, self.finite.verifier, self._config)

    def _compare(
        self, one: SearchTree, other: SearchTree, broken: type[ContractViolation], what: str
    ) -> None:
        if broken.promise not in self.waived and (differs := difference(one, other)):
            scenario = f"The one:\n{tree_text(one)}\n\nThe other:\n{tree_text(other)}"
            raise broken(f"{what}: {differs}", scenario)


def _stop_after(rounds: int) -> OnRound:
    left = iter(range(1, rounds))
    return lambda trees, finished: next(left, None) is not None


def check_seconds(searcher: Searcher, waived: Collection[str], finite: FiniteProblem) -> None:
    """Raise what is broken if every policy call takes longer than the search may."""
    searches = Searches(searcher, waived, finite, Budget(seconds=_SECONDS, rollouts=64))
    searches.check_budget(finite.problems(1), pause=2 * _SECONDS)
