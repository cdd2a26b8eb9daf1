"""Independent completions from the question on: all at once, or until a vote is settled."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import comb
from random import Random

from attrs import field, frozen, validators

from rftt.search.answers.voting import Equivalence, answered, group_answers, same_text
from rftt.search.searcher import Expansion, Searcher
from rftt.search.tree.tree import SearchTree


@frozen
class BestOfN(Searcher):
    """Sample as many independent completions as the budget has rollouts, in a single round.

    With a majority vote over the answers this is self-consistency (Wang et al. 2022).
    """

    needs_rollout_limit = True

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        assert tree.budget.rollouts is not None
        return [Expansion(tree.start, count=tree.budget.rollouts - tree.rollouts)]

    def is_done(self, tree: SearchTree) -> bool:
        return not tree.is_open(tree.start)


@frozen
class AdaptiveConsistency(Searcher):
    """Sample independent completions until it is likely enough that more would not change the vote
    (Aggarwal et al. 2023), or the budget's rollouts are spent.

    Attributes:
        samples_per_round: completions a round.
        confidence: stop when :func:`majority_confidence` of the two leading answers reaches this.
        equivalent: says which answers are the same, such as a verifier's ``equivalent``.
    """

    samples_per_round: int = field(default=4, validator=validators.ge(1))
    confidence: float = field(default=0.95, validator=[validators.gt(0.5), validators.lt(1)])
    equivalent: Equivalence = same_text
    needs_rollout_limit = True

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        return [Expansion(tree.start, count=self.samples_per_round)]

    def is_done(self, tree: SearchTree) -> bool:
        groups = group_answers(answered(tree), self.equivalent)
        first, second, *_ = [*sorted(map(len, groups), reverse=True), 0, 0]
        is_settled = majority_confidence(first, second) >= self.confidence
        return is_settled or not tree.is_open(tree.start)


def majority_confidence(first: int, second: int) -> float:
    """Return the probability that the answer with ``first`` votes is the more probable of two.

    After ``second`` votes for the other and a uniform prior it is ``P(p > 1/2)`` for
    ``p ~ Beta(first + 1, second + 1)``, which is the binomial sum
    ``sum(C(n, i) for i <= first) / 2**n`` with ``n = first + second + 1``.
    """
    n = first + second + 1
    return float(Fraction(sum(comb(n, i) for i in range(first + 1)), 2**n))
