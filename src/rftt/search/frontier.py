"""Search from one frontier of the whole tree: best-first, breadth-first, depth-first."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from attrs import field, frozen, validators

from rftt.search.scores import NodeScore, mean_log_prob
from rftt.search.searcher import Expansion, Growth, Searcher
from rftt.search.tree import SearchTree

Order = Callable[[int, float], tuple[float, ...]]
"""From a node's depth and score to a key; the smallest key is grown first."""

_FRONTIER: Final = "frontier"


def best_first(depth: int, score: float) -> tuple[float, ...]:
    """The best-scored open node anywhere on the tree."""
    return (-score,)


def breadth_first(depth: int, score: float) -> tuple[float, ...]:
    """Level by level, the best-scored first within each."""
    return (depth, -score)


def depth_first(depth: int, score: float) -> tuple[float, ...]:
    """On from the deepest open node, the best-scored first: down to an end, then back to the last
    choice."""
    return (-depth, -score)


@frozen
class FrontierSearch(Searcher):
    """Grows the first node of the frontier by ``branching`` samples of one step; those that can go on
    join the frontier (Tree of Thoughts, Yao et al. 2023, with depth-first and breadth-first order).

    Each node is grown once. Ends when the frontier is empty.

    Attributes:
        order: which node is first.
        branching: samples a node.
        at_once: nodes grown in one round.
        score: of a node; larger is better.
        prune_below: nodes with a smaller score do not join the frontier.
        judges_steps: whether the verifier judges each step, so that ``score`` can read its verdict.
    """

    order: Order = best_first
    branching: int = field(default=4, validator=validators.ge(1))
    at_once: int = field(default=1, validator=validators.ge(1))
    score: NodeScore = mean_log_prob
    prune_below: float | None = None
    judges_steps: bool = False

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        first = heapq.nsmallest(self.at_once, tree.memo.get(_FRONTIER, [[[], tree.start]]))
        return [Expansion(node, count=self.branching, until="step") for _, node in first]

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
        frontier = tree.memo.setdefault(_FRONTIER, [[[], tree.start]])
        # The smallest are those that were asked for; what the budget did not reach goes back.
        asked = [heapq.heappop(frontier) for _ in grown]
        for item, growth in zip(asked, grown, strict=True):
            if not growth.chains:
                heapq.heappush(frontier, item)
        for growth in grown:
            for chain in growth.chains:
                node = chain[-1]
                score = self.score(tree, node)
                if tree.is_open(node) and (self.prune_below is None or score >= self.prune_below):
                    # A list, as JSON would give it back.
                    heapq.heappush(frontier, [list(self.order(tree.depth[node], score)), node])
        if not frontier:
            tree.close(0)
