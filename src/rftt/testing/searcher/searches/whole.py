"""Complete searches of finite problems: budgets, seeds, batches, stopping, resuming."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from attrs import evolve, frozen

from rftt.interfaces import Policy
from rftt.problems.problem import Problem
from rftt.search.budget import Budget, SearchConfig
from rftt.search.engine.engine import resume_search
from rftt.search.engine.loop import OnRound
from rftt.search.searcher import Searcher
from rftt.search.tree.merge import commit_to
from rftt.search.tree.tree import SearchTree
from rftt.testing.copies import difference, reloaded
from rftt.testing.finite.problem import FiniteProblem
from rftt.testing.searcher.bench import AbandonedError, Bench
from rftt.testing.searcher.calls.scenario import tree_text
from rftt.testing.searcher.calls.watched import Watched
from rftt.testing.searcher.promises import (
    AnswerBroken,
    BatchBroken,
    BudgetBroken,
    ContractViolation,
    GoldBroken,
    RepliesBroken,
    ResumeBroken,
    SeedBroken,
    StateBroken,
)
from rftt.testing.searcher.searches.endings import ladder
from rftt.testing.searcher.searches.policies import MeteredPolicy, UnevenPolicy

_SECONDS = 0.002
_MAX_DEPTH = 6
_ANSWERS = ("0", "1")
"""Gold answers that some solutions of made-up problems give."""


@frozen
class Searches:
    """One strategy and one finite problem, searched in several ways that must come to the same.

    Attributes:
        bench: the strategy.
        finite: what is searched.
        budget: of each tree.
        seed: of the searches.
    """

    bench: Bench
    finite: FiniteProblem
    budget: Budget
    seed: int = 0

    def check(self, stop: int) -> None:
        """Raise the promise that is broken; one search is stopped after ``stop`` rounds."""
        used = self.bench.fresh()
        problems = self.finite.problems(3)
        trees = self.check_budget(used, problems)
        for problem, tree in zip(problems, trees, strict=True):
            (alone,) = self._run(self.bench.fresh(), [problem], SeedBroken)
            (again,) = self._run(self.bench.fresh(), [problem], SeedBroken)
            self._compare(alone, again, SeedBroken, "a search, and the same once more")
            (again,) = self._run(used, [problem], StateBroken)
            what = "a search by a strategy that has searched nothing before, and by one that has"
            self._compare(alone, again, StateBroken, what)
            self._compare(alone, tree, BatchBroken, "a search alone, and with two others")
        reverse = self._run(used, problems[::-1], BatchBroken)
        for tree, other in zip(trees, reversed(reverse), strict=True):
            self._compare(tree, other, BatchBroken, "a search in a batch, and in its reverse")
        self._check_streaming(problems, trees)
        self._check_gold(problems[0])
        stopped = self._run(used, problems, ResumeBroken, on_round=_stop_after(stop))
        resumed = self._resume([self._reloaded(tree) for tree in stopped], used, ResumeBroken)
        for tree, other in zip(trees, resumed, strict=True):
            what = f"a search, and the same stopped after {stop} rounds, saved, loaded and resumed"
            self._compare(tree, other, ResumeBroken, what)
        self._check_commitment(stopped)

    def _check_streaming(self, problems: Sequence[Problem], trees: Sequence[SearchTree]) -> None:
        """Compare rounds with streaming, where the tree that came last is ahead of the others."""
        policy = UnevenPolicy(self.finite.policy)
        for most, how in ((None, ""), (2, ", two at a time")):
            config = evolve(self._config, streaming=True, max_concurrent_trees=most)
            streamed = self._run(self.bench.fresh(), problems, BatchBroken, policy, config)
            for tree, other in zip(trees, streamed, strict=True):
                self._compare(tree, other, BatchBroken, f"a search in rounds, and with streaming{how}")

    def _check_gold(self, problem: Problem) -> None:
        """Compare searches of problems that differ in what a strategy may not read."""
        (tree,) = self._run(self.bench.fresh(), [problem], GoldBroken)
        for answer in _ANSWERS:
            other = evolve(problem, answer=answer, metadata={"answer": answer})
            (marked,) = self._run(self.bench.fresh(), [other], GoldBroken)
            marked.problem = problem
            what = f"the search of a problem without a gold answer, and with {answer!r}"
            self._compare(tree, marked, GoldBroken, what)

    def _check_commitment(self, stopped: Sequence[SearchTree]) -> None:
        """Commit each search to the first of its first steps, and go on under watch."""
        watched = Watched(self.bench.fresh(), self.bench.skipped)
        committed = [
            commit_to(tree, tree.children[0][0], discount=watched.discount)
            for tree in stopped
            if tree.children[0]
        ]
        self._resume(committed, watched, RepliesBroken)

    def check_budget(
        self, searcher: Searcher, problems: Sequence[Problem], pause: float = 0.0
    ) -> list[SearchTree]:
        """Search under watch, and count what is spent apart from the trees.

        Args:
            searcher: the strategy.
            problems: what is searched.
            pause: seconds that each policy call takes at least.
        """
        watched = Watched(searcher, self.bench.skipped)
        metered = MeteredPolicy(self.finite.policy, pause)
        trees = self._run(watched, problems, RepliesBroken, metered)
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
        searcher: Searcher,
        problems: Sequence[Problem],
        broken: type[ContractViolation],
        policy: Policy | None = None,
        config: SearchConfig | None = None,
        on_round: OnRound | None = None,
    ) -> list[SearchTree]:
        trees = [SearchTree(each, self.finite.policy.grammar, _MAX_DEPTH) for each in problems]
        return self._resume(trees, searcher, broken, policy, config, on_round)

    def _resume(
        self,
        trees: Sequence[SearchTree],
        searcher: Searcher,
        broken: type[ContractViolation],
        policy: Policy | None = None,
        config: SearchConfig | None = None,
        on_round: OnRound | None = None,
    ) -> list[SearchTree]:
        """Search.

        Raises:
            ContractViolation: ``broken``, if the strategy or the engine raises.
            AbandonedError: likewise, where that is not demanded.
        """
        try:
            return resume_search(
                trees, searcher, policy or self.finite.policy, self.finite.verifier,
                config or self._config, on_round=on_round,
            )  # fmt: skip
        except (ContractViolation, AbandonedError):
            raise
        except Exception as error:
            if broken.promise in self.bench.skipped:
                raise AbandonedError(f"the search raised {error!r}") from error
            raise broken(f"the search raised {error!r}", "\n".join(map(tree_text, trees))) from error

    def _reloaded(self, tree: SearchTree) -> SearchTree:
        try:
            return reloaded(tree)
        except (TypeError, ValueError) as error:
            if ResumeBroken.promise in self.bench.skipped:
                raise AbandonedError(f"the tree cannot be saved: {error}") from error
            raise ResumeBroken(f"the tree cannot be saved: {error}", tree_text(tree)) from error

    def _compare(
        self, one: SearchTree, other: SearchTree, broken: type[ContractViolation], what: str
    ) -> None:
        if broken.promise not in self.bench.skipped and (differs := difference(one, other)):
            scenario = f"The one:\n{tree_text(one)}\n\nThe other:\n{tree_text(other)}"
            raise broken(f"{what}: {differs}", scenario)


def _stop_after(rounds: int) -> OnRound:
    left = iter(range(1, rounds))
    return lambda trees, finished: next(left, None) is not None


def check_seconds(bench: Bench) -> None:
    """Raise what is broken if every policy call takes longer than the search may."""
    finite = ladder(bench.settings.rewards)[-1]
    searches = Searches(bench, finite, Budget(seconds=_SECONDS, rollouts=64))
    searches.check_budget(bench.fresh(), finite.problems(1), pause=2 * _SECONDS)
