"""Strategies that each break one promise, as their authors might have meant them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from random import Random
from typing import Any

from rftt import MCTS, Budget, Expansion, ExpansionResult, Searcher, SearchTree, Step


class SamplesFew(Searcher):
    """Samples some completions in one round, and keeps every promise."""

    def __init__(self, count: int = 3) -> None:
        self.count = count

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(tree.start, count=self.count)]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        tree.mark_exhausted(0)


class CountsTwice(MCTS):
    """Backs up a scored rollout once for the visit and once for the score."""

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        for result in results:
            for nodes, score in zip(result.completions, result.scores, strict=True):
                if score is not None:
                    tree.backup(nodes[-1], None)


class KeepsRolloutsBack(SamplesFew):
    """Counts only what scored."""

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        for result in results:
            for nodes, score in zip(result.completions, result.scores, strict=True):
                if score is not None:
                    tree.backup(nodes[-1], score)
        tree.mark_exhausted(0)


class NoNegativeScores(SamplesFew):
    """Takes scores for probabilities."""

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        for result in results:
            for nodes, score in zip(result.completions, result.scores, strict=True):
                tree.backup(nodes[-1], None if score is None else max(0.0, score))
        tree.mark_exhausted(0)


class IgnoresDiscount(MCTS):
    """Has the setting, and does not use it."""

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        Searcher.tell(self, tree, results)


def uct_of_the_visited(
    values: Sequence[float],
    visits: Sequence[int],
    parent_visits: int,
    priors: Sequence[float],
    exploration: float,
) -> list[float]:
    """UCT that avoids the division by zero by giving 0."""
    log = math.log(max(1, parent_visits))
    return [
        value + exploration * math.sqrt(log / count) if count else 0.0
        for value, count in zip(values, visits, strict=True)
    ]


class Overlooks(Searcher):
    """Samples two single steps of each node and goes where the mean is best: a child without a visit
    has no mean, and is not looked at where another has one."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        node = tree.start
        while len(tree.children[node]) >= 2:
            inner = [child for child in tree.children[node] if tree.is_open(child)]
            if not inner:
                break
            node = max(inner, key=lambda child: tree.value(child) if tree.value_count[child] else -99.0)
        if len(tree.children[node]) < 2:
            return [Expansion(node, count=2 - len(tree.children[node]), until="step")]
        return [Expansion(node)]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        for result in results:
            for nodes, score in zip(result.completions, result.scores, strict=True):
                if tree.verdict[nodes[-1]] is not None:
                    tree.backup(nodes[-1], score)


class AddsNodes(SamplesFew):
    """Writes a step of its own on the tree."""

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        name = tree.legal(0)[0]
        tree.attach(0, Step(name, "mine", (1,), (0.0,), (False,), terminal=True))


class SortsChildren(SamplesFew):
    """Puts the best first."""

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        tree.children[0].sort(key=lambda child: tree.value(child) or 0.0, reverse=True)


class RaisesItsLimit(SamplesFew):
    """Gives itself more rollouts."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        tree.budget = Budget(rollouts=1000)
        return super().ask(tree, rng)


class TakesBackRollouts(MCTS):
    """Does not count rollouts that scored nothing."""

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        tree.rollouts -= sum(not score for result in results for score in result.scores)


class Relabels(SamplesFew):
    """Corrects verdicts."""

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        tree.verdict[results[0].completions[0][-1]] = None


class TakesTurns(Searcher):
    """Asks for one sample and for two in turn, by a counter of its own."""

    def __init__(self) -> None:
        self.asked = 0

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        self.asked += 1
        return [Expansion(tree.start, count=1 + self.asked % 2)]


class TakesTurnsOfAll(TakesTurns):
    """The same, with the counter where a copy of the strategy does not reach it."""

    counter: list[int] = [0]  # noqa: RUF012

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        self.counter[0] += 1
        return [Expansion(tree.start, count=1 + self.counter[0] % 2)]


class OwnChance(Searcher):
    """Chance from elsewhere."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(tree.start, count=random.randint(1, 9))]


class RemembersTrees(Searcher):
    """Remembers by the tree object what it has seen of it."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(tree.start, count=1 + self.seen.get(id(tree), 0))]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        self.seen[id(tree)] = len(tree)


class RemembersProblems(Searcher):
    """Remembers the last search of each problem, and forgets it when a new one begins."""

    def __init__(self) -> None:
        self.rounds: dict[str, int] = {}

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        if tree.rounds == 0:
            self.rounds[tree.problem.id] = 0
        return [Expansion(tree.start, count=1 + self.rounds.get(tree.problem.id, 0))]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        self.rounds[tree.problem.id] = tree.rounds


class ComparesProblems(Searcher):
    """Samples more of a problem that is behind the others that are searched."""

    def __init__(self) -> None:
        self.rounds: dict[str, int] = {}

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        if tree.rounds == 0:
            self.rounds = {}
        self.rounds[tree.problem.id] = tree.rounds
        return [Expansion(tree.start, count=2 if tree.rounds == min(self.rounds.values()) else 1)]


class NumbersAsKeys(Searcher):
    """Keeps a memo that JSON changes."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        sampled: dict[Any, int] = tree.memo.setdefault("sampled", {})
        return [Expansion(tree.start, count=1 + sampled.get(0, 0))]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        tree.memo["sampled"] = {0: len(results[0].completions)}


class SetInMemo(SamplesFew):
    """Keeps a memo that JSON does not know."""

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        Searcher.tell(self, tree, results)
        tree.memo["seen"] = set(range(len(tree)))


class EndsAtOnce(Searcher):
    """Asks for the last function first."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(tree.start, function=list(tree.grammar.functions)[-1])]


class ExpandsLeaves(Searcher):
    """Expands whatever came last."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(len(tree) - 1)]


class BelowExhausted(Searcher):
    """Marks a node as exhausted, and goes on below it."""

    def is_done(self, tree: SearchTree) -> bool:
        return not any(tree.is_open(node) for node in range(len(tree)))

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(max(filter(tree.is_open, range(len(tree)))), until="step")]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        tree.mark_exhausted(results[0].expansion.node)


class Reopens(Searcher):
    """Goes back to what was exhausted."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(tree.start)]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        for child in tree.children[0]:
            tree.exhausted[child] = not tree.exhausted[child]


class ForgetsItsStart(SamplesFew):
    """Begins at the question, whatever the search has committed to."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(0, count=self.count)]


class NeverEnds(SamplesFew):
    """Forgets to say when it is enough."""

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        Searcher.tell(self, tree, results)


class Pauses(NeverEnds):
    """Asks for nothing in every other round."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        tree.memo["awake"] = not tree.memo.get("awake", False)
        return [Expansion(tree.start)] if tree.memo["awake"] else []


class EndsByAsking(SamplesFew):
    """Asks for nothing once it has a completion, and leaves it at that."""

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        Searcher.tell(self, tree, results)

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [] if tree.visits[0] else super().ask(tree, rng)


class NeverBegins(SamplesFew):
    """Is done before it has begun."""

    def is_done(self, tree: SearchTree) -> bool:
        return True


class CountsOnAll(SamplesFew):
    """Takes for granted that it gets what it asked for."""

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        tree.memo["last"] = results[0].completions[self.count - 1][-1]


class CountsOnScores(SamplesFew):
    """Takes for granted that verifiers always score."""

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        tree.memo["sum"] = sum(score for result in results for score in result.scores)  # type: ignore[misc]
