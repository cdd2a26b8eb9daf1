"""Strategies that each break one promise, as their authors might have meant them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from random import Random
from typing import Any

from rftt import MCTS, BestOfN, Expansion, Growth, Searcher, SearchTree, Segment


class CountsTwice(MCTS):
    """Backs up a scored rollout once for the visit and once for the score."""

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
        for growth in grown:
            for chain, score in zip(growth.chains, growth.scores, strict=True):
                if score is not None:
                    tree.backup(chain[-1], None)


class KeepsRolloutsBack(BestOfN):
    """Counts only what scored."""

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        for growth in grown:
            for chain, score in zip(growth.chains, growth.scores, strict=True):
                if score is not None:
                    tree.backup(chain[-1], score)
        tree.close(0)


class NoNegativeScores(BestOfN):
    """Takes scores for probabilities."""

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        for growth in grown:
            for chain, score in zip(growth.chains, growth.scores, strict=True):
                tree.backup(chain[-1], None if score is None else max(0.0, score))
        tree.close(0)


class IgnoresDiscount(MCTS):
    """Has the setting, and does not use it."""

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        Searcher.tell(self, tree, grown)


def bonus_for_visited_only(
    value: float, visits: int, parent_visits: int, prior: float, exploration: float
) -> float:
    """UCT that avoids the division by zero by giving 0."""
    log = math.log(max(1, parent_visits))
    return value + exploration * math.sqrt(log / visits) if visits else 0.0


class Overlooks(Searcher):
    """Samples two single steps of each node and goes where the mean is best: a child without a visit
    has no mean, and is not looked at where another has one."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        node = 0
        while tree.is_open(node) and len(tree.children(node)) >= 2:
            inner = [child for child in tree.children(node) if tree.is_open(child)]
            if not inner:
                break
            node = max(inner, key=lambda child: tree.value(child) if tree.judged[child] else -99.0)
        if not tree.is_open(node):
            return []
        if len(tree.children(node)) < 2:
            return [Expansion(node, count=2 - len(tree.children(node)), until="step")]
        return [Expansion(node)]

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        for growth in grown:
            for chain, score in zip(growth.chains, growth.scores, strict=True):
                if tree.verdict[chain[-1]] is not None:
                    tree.backup(chain[-1], score)


class AddsNodes(BestOfN):
    """Writes a step of its own on the tree."""

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
        name = tree.legal(0)[0]
        tree.attach(0, Segment(name, "mine", (1,), (0.0,), (False,), is_final=True))


class TakesBackRollouts(MCTS):
    """Does not count rollouts that scored nothing."""

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
        tree.samples -= sum(not score for growth in grown for score in growth.scores)


class Relabels(BestOfN):
    """Corrects verdicts."""

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
        tree.verdict[grown[0].chains[0][-1]] = None


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

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
        self.seen[id(tree)] = len(tree)


class RemembersProblems(Searcher):
    """Remembers the last search of each problem, and forgets it when a new one begins."""

    def __init__(self) -> None:
        self.rounds: dict[str, int] = {}

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        if tree.rounds == 0:
            self.rounds[tree.problem.id] = 0
        return [Expansion(tree.start, count=1 + self.rounds.get(tree.problem.id, 0))]

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
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
        grown: dict[Any, int] = tree.memo.setdefault("grown", {})
        return [Expansion(tree.start, count=1 + grown.get(0, 0))]

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
        tree.memo["grown"] = {0: len(grown[0].chains)}


class SetInMemo(BestOfN):
    """Keeps a memo that JSON does not know."""

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        Searcher.tell(self, tree, grown)
        tree.memo["seen"] = set(range(len(tree)))


class EndsAtOnce(Searcher):
    """Asks for the last function first."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(tree.start, function=list(tree.grammar.functions)[-1])]


class GrowsLeaves(Searcher):
    """Grows whatever came last."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(len(tree) - 1)]


class BelowClosed(Searcher):
    """Closes a node, and goes on below it."""

    def is_done(self, tree: SearchTree) -> bool:
        return False

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        inner = [node for node in range(len(tree)) if tree.is_open(node)]
        return [Expansion(inner[-1], until="step")] if inner else []

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
        tree.close(grown[0].expansion.node)


class Reopens(Searcher):
    """Opens what was closed."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(tree.start)]

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
        for child in tree.children(0):
            tree.closed[child] = not tree.closed[child]


class ForgetsItsStart(BestOfN):
    """Begins at the question, whatever the search has committed to."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(0, count=self.n)]


class Endless(BestOfN):
    """Forgets to say when it is enough."""

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        Searcher.tell(self, tree, grown)


class Wakes(Endless):
    """Pauses for a round after each."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        tree.memo["awake"] = not tree.memo.get("awake", False)
        return [Expansion(tree.start)] if tree.memo["awake"] else []


class NeverBegins(BestOfN):
    """Asks for nothing."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return []


class CountsOnAll(BestOfN):
    """Takes for granted that it gets what it asked for."""

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
        tree.memo["last"] = grown[0].chains[self.n - 1][-1]


class CountsOnScores(BestOfN):
    """Takes for granted that verifiers always score."""

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
        tree.memo["sum"] = sum(score for growth in grown for score in growth.scores)  # type: ignore[misc]
