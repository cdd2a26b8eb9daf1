"""Strategies that each break one promise where it seldom shows: in another process, with another gold
answer, on the second tree, with next to no prior, or not within the time that anyone waits."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from random import Random
from typing import Any

from rftt import MCTS, Expansion, ExpansionResult, Searcher, SearchTree
from tests.testing.broken import SamplesFew


class TakesFromASet(Searcher):
    """Takes any function that is left at the question, in the order of a set."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        left = set(tree.legal(tree.start)) - set(tree.memo.get("tried", []))
        return [Expansion(tree.start, function=next(iter(left)))]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        tried = [*tree.memo.get("tried", []), results[0].expansion.function]
        tree.memo["tried"] = tried
        if set(tried) >= set(tree.legal(tree.start)):
            tree.mark_exhausted(0)


class ReadsGold(SamplesFew):
    """Stops at the first answer that is the gold one."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(tree.start)]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        Searcher.tell(self, tree, results)
        answers = [verdict.answer for verdict in tree.verdict if verdict is not None]
        is_right = tree.problem.answer is not None and tree.problem.answer in answers
        if is_right or tree.visits[0] >= self.count:
            tree.mark_exhausted(0)


class ReadsMetadata(SamplesFew):
    """Samples as much as the metadata say."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(tree.start, count=self.count + len(tree.problem.metadata))]


class CachesOptions(Searcher):
    """Tries each function at each node once; remembers by a node's number which those are."""

    def __init__(self) -> None:
        self.options: dict[int, tuple[str, ...]] = {}

    def untried(self, tree: SearchTree, node: int) -> list[str]:
        options = self.options.setdefault(node, tree.legal(node))
        tried = {step.function for child in tree.children[node] if (step := tree.step[child])}
        return [name for name in options if name in tree.legal(node) and name not in tried]

    def places(self, tree: SearchTree) -> list[int]:
        return [n for n in range(tree.start, len(tree)) if tree.is_open(n) and self.untried(tree, n)]

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        node = self.places(tree)[-1]
        return [Expansion(node, function=self.untried(tree, node)[0])]

    def is_done(self, tree: SearchTree) -> bool:
        return not self.places(tree) or tree.rollouts >= 12


class CachesOnTheClass(CachesOptions):
    """The same, where all instances share it."""

    options: dict[int, tuple[str, ...]] = {}  # noqa: RUF012

    def __init__(self) -> None:
        pass


class ScalesByTheFirst(Searcher):
    """Measures values by the first score that it was told, of whichever tree."""

    def __init__(self) -> None:
        self.scale: float | None = None

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        good = [
            child
            for child in tree.children[tree.start]
            if tree.is_open(child) and (tree.value(child) or 0.0) > (self.scale or 0.0)
        ]
        return [Expansion(good[0] if good else tree.start)]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        if self.scale is None:
            self.scale = next((score for result in results for score in result.scores if score), 0.0)

    def is_done(self, tree: SearchTree) -> bool:
        return tree.rollouts >= 6


class SkipsTheUnlikely(MCTS):
    """Saves what is next to impossible by the prior."""

    def _new_functions(self, tree: SearchTree, node: int, pending: Any) -> Sequence[str | None]:
        prior = tree.prior[node] or {}
        names = super()._new_functions(tree, node, pending)
        return [n for n in names if n is None or prior[n] > -4.0 or len(prior) == 1]


class TakesLogarithms(MCTS):
    """Turns priors into logits: of the probabilities, not of their logarithms, which would do."""

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        prior = tree.prior[tree.start] or {}
        tree.memo["logits"] = [math.log(math.exp(log_prob)) for log_prob in prior.values()]
        return super().ask(tree, rng)


class ClosesEarly(MCTS):
    """Closes a node when all children that it has are exhausted, whether or not others may come."""

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        for result in results:
            for nodes in result.completions:
                if len(nodes) > 1 and all(tree.exhausted[c] for c in tree.children[nodes[-2]]):
                    tree.mark_exhausted(nodes[-2])


class ClosesTheLosing(MCTS):
    """Closes a node below the first as soon as it wins no more: all rollouts scored the lowest."""

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        for node in range(1, len(tree)):
            value = tree.value(node)
            if value is not None and value < -0.9 and tree.value_count[node] >= 3:
                tree.mark_exhausted(node)


class AsksForAMillion(SamplesFew):
    """Lets the budget decide how much of it is sampled."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(tree.start, count=10**6)]


class ListsAMillion(SamplesFew):
    """The same, one by one."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(tree.start)] * 10**6


class YieldsExpansions(SamplesFew):
    """Is a generator."""

    def ask(self, tree: SearchTree, rng: Random) -> Any:
        yield Expansion(tree.start, count=self.count)


class NeverReturns(SamplesFew):
    """Looks for a child that it has not had, where there is none."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        while tree.visits[0] >= 0:
            pass
        return []


class WaitsForEver(SamplesFew):
    """Takes a lock twice."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        lock = threading.Lock()
        with lock, lock:
            return [Expansion(tree.start, count=self.count)]


class KeepsFewPlans(Searcher):
    """Plans when asked, and reads the plan when told; keeps the last four plans."""

    def __init__(self) -> None:
        self.plans: dict[tuple[str, int], str] = {}

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        key = (tree.problem.id, tree.rounds)
        self.plans.pop(key, None)
        self.plans[key] = tree.legal(tree.start)[-1]
        while len(self.plans) > 4:
            del self.plans[next(iter(self.plans))]
        return [Expansion(tree.start)]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        plans = [plan for (name, _), plan in self.plans.items() if name == tree.problem.id]
        tree.memo["plans"] = [*tree.memo.get("plans", []), *plans[-1:]]
        if tree.rollouts >= 6:
            tree.mark_exhausted(0)


class LeavesRollouts(Searcher):
    """Plans with half of what it may spend."""

    needs_rollout_limit = True

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(tree.start)]

    def is_done(self, tree: SearchTree) -> bool:
        assert tree.budget.rollouts is not None
        return 2 * tree.rollouts >= tree.budget.rollouts


class EndsForGood(Searcher):
    """Closes the search with its budget, and so does not go on with a larger one."""

    needs_rollout_limit = True

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(tree.start)]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        if tree.rollouts == tree.budget.rollouts:
            tree.mark_exhausted(0)


class ScoresItself(SamplesFew):
    """Gives unfinished solutions a score of its own."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(tree.start, count=self.count, until="step")]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        for result in results:
            for nodes, score in zip(result.completions, result.scores, strict=True):
                tree.backup(nodes[-1], 0.5 if score is None else score)
        tree.mark_exhausted(0)


class NamesItGamma(SamplesFew):
    """Discounts by a factor of another name."""

    gamma = 0.5

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        for result in results:
            for nodes, score in zip(result.completions, result.scores, strict=True):
                tree.backup(nodes[-1], score, discount=self.gamma)
        tree.mark_exhausted(0)


class Careless(SamplesFew):
    """Counts only what scored, goes for the gold answer, and never ends."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        answers = [verdict.answer for verdict in tree.verdict if verdict is not None]
        is_right = tree.problem.answer is not None and tree.problem.answer in answers
        return [Expansion(tree.start, count=2 if is_right else 1)]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        for result in results:
            for nodes, score in zip(result.completions, result.scores, strict=True):
                if score is not None:
                    tree.backup(nodes[-1], score)


class Prints(SamplesFew):
    """Says what it does."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        print("asking")
        return super().ask(tree, rng)
