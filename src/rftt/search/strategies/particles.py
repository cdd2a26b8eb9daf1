"""Particle filtering over reasoning steps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Final

from attrs import field, frozen, validators

from rftt.search.scores import NodeScore, mean_log_prob
from rftt.search.searcher import Expansion, ExpansionResult, Searcher
from rftt.search.tree.tree import SearchTree

_PARTICLES: Final = "particles"


@frozen
class ParticleFilter(Searcher):
    """Grow ``particles`` paths side by side, one step a round, and resample them before each step.

    They are drawn in proportion to ``exp(score / temperature)``, so that likely paths are expanded more
    often and no early judgement is final (Puri et al. 2025). Finished paths stay in the draw as they
    are. Ends when all are finished.

    Attributes:
        particles: how many.
        temperature: of the weights; the larger, the more evenly they are drawn.
        score: of a path; larger is better.
        scores_partial: whether the verifier judges each step, so that ``score`` can read its verdict.
    """

    particles: int = field(default=8, validator=validators.ge(1))
    temperature: float = field(default=1.0, validator=validators.gt(0))
    score: NodeScore = mean_log_prob
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
        scores = [self.score(tree, node) for node in nodes]
        best = max(scores)
        if best == -math.inf:
            return [1.0] * len(nodes)
        return [math.exp((score - best) / self.temperature) for score in scores]


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
