"""Independent samples from the question to an answer: a fixed number, or until a vote is settled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from math import comb
from random import Random

from attrs import field, frozen, validators

from rftt.search.answers import answered
from rftt.search.searcher import Expansion, Growth, Searcher
from rftt.search.tree import SearchTree


@frozen
class BestOfN(Searcher):
    """``n`` independent samples in a single round. With a majority vote over the answers this is
    self-consistency (Wang et al. 2022)."""

    n: int = field(default=16, validator=validators.ge(1))

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        return [Expansion(tree.start, count=self.n)]

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
        tree.close(0)


@frozen
class AdaptiveConsistency(Searcher):
    """Independent samples, ``at_once`` a round, until it is likely enough that more would not change
    the vote (Aggarwal et al. 2023), or ``most`` are drawn.

    Attributes:
        most: samples at the most.
        at_once: samples a round.
        confidence: stop when :func:`majority_confidence` of the two leading answers reaches this.
    """

    most: int = field(default=16, validator=validators.ge(1))
    at_once: int = field(default=4, validator=validators.ge(1))
    confidence: float = field(default=0.95, validator=[validators.gt(0.5), validators.lt(1)])

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        left = self.most - tree.visits[0]
        return [Expansion(tree.start, count=min(self.at_once, left))] if left > 0 else []

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
        votes = Counter(answer for _, answer in answered(tree))
        first, second, *_ = [*sorted(votes.values(), reverse=True), 0, 0]
        if tree.visits[0] >= self.most or majority_confidence(first, second) >= self.confidence:
            tree.close(0)


def majority_confidence(first: int, second: int) -> float:
    """The probability that the answer with ``first`` votes is the more probable of two, after ``second``
    votes for the other and a uniform prior: ``P(p > 1/2)`` for ``p ~ Beta(first + 1, second + 1)``,
    which is the binomial sum ``sum(C(n, i) for i <= first) / 2**n`` with ``n = first + second + 1``."""
    n = first + second + 1
    return float(Fraction(sum(comb(n, i) for i in range(first + 1)), 2**n))
