"""Particle filtering over reasoning steps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from attrs import field, frozen, validators

from rftt.search.scores import NodeScore, mean_prob, score_node
from rftt.search.searcher import Expansion, ExpansionResult, Searcher
from rftt.search.tree.tree import SearchTree

LogWeight = Callable[[float], float]
"""``log_weight(score)``: the logarithm of an unnormalised weight; increasing."""

_PARTICLES: Final = "particles"
_CLAMP: Final = 1e-7
"""How near to 0 and 1 a score may come before its log-odds are taken, as in its_hub."""


def log_odds(score: float) -> float:
    """Return ``log(score / (1 - score))`` of a score in [0, 1], such as the probability that a path is
    right; scores within 1e-7 of 0 or 1 are moved there.

    Raises:
        ValueError: if the score is not in [0, 1].
    """
    if not 0 <= score <= 1:
        raise ValueError(
            f"log_odds: the score {score} is not in [0, 1]; give ParticleFilter a log_weight that suits "
            "its range, such as identity"
        )
    clamped = min(max(score, _CLAMP), 1 - _CLAMP)
    return math.log(clamped / (1 - clamped))


def identity(score: float) -> float:
    """Take the score itself for the logarithm of a weight: for log-probabilities, such as
    :func:`~rftt.search.scores.mean_log_prob`, or rewards without bounds."""
    return score


@frozen
class ParticleFilter(Searcher):
    """Grow ``particles`` paths side by side, one step a round, and resample them before each step
    (Puri et al. 2025, arXiv 2502.01618).

    They are drawn in proportion to ``exp(log_weight(score) / temperature)``, so that good paths are
    expanded more often and no early judgement is final. With log-odds, as there, the weight of a score
    is its odds: .9 beside .1 is drawn in 98.8% of cases. Finished paths stay in the draw as they are. A
    path without a score, where the verifier abstains, is drawn only if none has one. Ends when all are
    finished.

    Attributes:
        particles: how many.
        temperature: of the weights; the larger, the more evenly they are drawn.
        score: of a path; larger is better.
        log_weight: the logarithm of a score's weight: :func:`log_odds` for scores in [0, 1], or
            :func:`identity`.
        scores_partial: whether the verifier judges each step, so that ``score`` can read its verdict.
    """

    particles: int = field(default=8, validator=validators.ge(1))
    temperature: float = field(default=1.0, validator=validators.gt(0))
    score: NodeScore = mean_prob
    log_weight: LogWeight = log_odds
    scores_partial: bool = False

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        held: list[int] = tree.memo.get(_PARTICLES, [tree.start] * self.particles)
        if not held:
            # The budget granted nothing that the last round asked for.
            tree.mark_exhausted(0)
            return []
        drawn = Counter(systematic(held, self._weights(tree, held), self.particles, rng))
        tree.memo[_PARTICLES] = [n for n in drawn.elements() if not tree.is_open(n)]
        open_nodes = {node: count for node, count in drawn.items() if tree.is_open(node)}
        if not open_nodes:
            tree.mark_exhausted(0)
        return [Expansion(node, count=count, until="step") for node, count in open_nodes.items()]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        tree.memo[_PARTICLES] += [nodes[-1] for result in results for nodes in result.completions]

    def _weights(self, tree: SearchTree, nodes: Sequence[int]) -> list[float]:
        scores = [score_node(self.score, tree, node) for node in nodes]
        return particle_weights(scores, self.log_weight, self.temperature)


def particle_weights(
    scores: Sequence[float], log_weight: LogWeight = log_odds, temperature: float = 1.0
) -> list[float]:
    """Return ``softmax(log_weight(score) / temperature)`` over some scores.

    A score of minus infinity, which stands for none, has the weight 0; without any score, all weigh
    alike.

    Args:
        scores: at least one.
        log_weight: the logarithm of a score's weight.
        temperature: more than 0.
    """
    logs = [-math.inf if score == -math.inf else log_weight(score) / temperature for score in scores]
    best = max(logs)
    if best == -math.inf:
        return [1 / len(scores)] * len(scores)
    weights = [math.exp(log - best) for log in logs]
    total = sum(weights)
    return [weight / total for weight in weights]


def systematic(items: Sequence[int], weights: Sequence[float], count: int, rng: Random) -> list[int]:
    """Draw ``count`` items by systematic resampling (Kitagawa 1996): at even distances along the
    cumulative weights from one random start. An item with a share ``w`` of all weight is drawn
    ``floor(count * w)`` times or once more."""
    step = sum(weights) / count
    position = rng.random() * step
    drawn: list[int] = []
    passed = 0.0
    for item, weight in zip(items, weights, strict=True):
        passed += weight
        while position < passed and len(drawn) < count:
            drawn.append(item)
            position += step
    # Rounding can leave the last mark just past the sum.
    return drawn + [items[-1]] * (count - len(drawn))
