"""Reward balanced search: every path is expanded, the better the more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any, Final

from attrs import field, frozen, validators

from rftt.search.scores import NodeScore, score_node, verifier_score
from rftt.search.searcher import Expansion, ExpansionResult, Searcher
from rftt.search.tree.tree import SearchTree

_LEVEL: Final = "rebase"


@frozen
class REBASE(Searcher):
    """Sample ``width`` solutions level by level, by reward balanced search (Wu et al. 2024, arXiv
    2408.00724).

    The first level has ``width`` samples of one step. A path of a level that has ended takes its place
    with it: the next level has one sample less. The samples of the next level are shared among the
    paths that go on by :func:`balanced_widths` of their rewards. Ends when no place is left. The answer
    is a vote weighted by ``verifier_score`` in the paper.

    Attributes:
        width: solutions sampled, ``N`` in the paper.
        temperature: of the shares; the larger, the more evenly they are expanded. The default is that
            of the authors' code.
        score: the reward of a path, such as a process reward model's through ``verifier_score``.
        scores_partial: whether the verifier judges each step, so that ``score`` can read its verdict.
    """

    width: int = field(default=16, validator=validators.ge(1))
    temperature: float = field(default=0.2, validator=validators.gt(0))
    score: NodeScore = verifier_score
    scores_partial: bool = True

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        level: dict[str, Any] = tree.memo.setdefault(_LEVEL, {"left": self.width, "paths": [tree.start]})
        paths: list[int] = level["paths"]
        if level["left"] <= 0 or not paths:
            tree.mark_exhausted(0)
            return []
        scores = [score_node(self.score, tree, node) for node in paths] if len(paths) > 1 else [0.0]
        widths = balanced_widths(scores, level["left"], self.temperature)
        shares = zip(paths, widths, strict=True)
        return [Expansion(node, count=width, until="step") for node, width in shares if width]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        level = tree.memo[_LEVEL]
        ends = [nodes[-1] for result in results for nodes in result.completions]
        level["paths"] = [node for node in ends if tree.is_open(node)]
        level["left"] -= len(ends) - len(level["paths"])


def balanced_widths(scores: Sequence[float], width: int, temperature: float) -> list[int]:
    """Share samples in proportion to ``exp(score / temperature)``.

    The paper rounds each share to the nearest number, so that the sum may miss ``width``. This does what
    the authors' code does: from the best score on, each gets its share of what is left, rounded up. So
    the sum is ``width``, and the worst may get nothing.

    Args:
        scores: of the paths. One of minus infinity gets nothing, unless all are.
        width: how many samples there are.
        temperature: the larger, the more even are the shares.

    Returns:
        The number of samples for each path.
    """
    best = max(scores)
    weights = [1.0 if best == -math.inf else math.exp((score - best) / temperature) for score in scores]
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    widths = [0] * len(scores)
    for rank, place in enumerate(order):
        # Summed anew: differences of a running sum would round a share just above a whole number.
        left = math.fsum(weights[other] for other in order[rank:])
        if width <= 0 or not weights[place]:
            break
        widths[place] = min(width, math.ceil(width * weights[place] / left - 1e-9))
        width -= widths[place]
    return widths
