"""Search from one frontier of the whole tree: best-first, breadth-first, depth-first."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from attrs import field, frozen, validators

from rftt.search.scores import NodeScore, mean_log_prob, score_node, without_copies
from rftt.search.searcher import Expansion, ExpansionResult, Searcher
from rftt.search.tree.tree import SearchTree

Order = Callable[[int, float], tuple[float, ...]]
"""From a node's depth and score to a key; the node with the smallest key is expanded first."""

_FRONTIER: Final = "frontier"


def best_first(depth: int, score: float) -> tuple[float, ...]:
    """Order by score alone: the best open node anywhere on the tree."""
    return (-score,)


def breadth_first(depth: int, score: float) -> tuple[float, ...]:
    """Order by level, and by score within each."""
    return (depth, -score)


def depth_first(depth: int, score: float) -> tuple[float, ...]:
    """Order by depth, the deepest first, and by score: down to an end, then back to the last choice."""
    return (-depth, -score)


@frozen
class FrontierSearch(Searcher):
    """Expand the first node of the frontier by ``branching`` samples of one step; those that can go on
    join the frontier: graph search of the textbooks (Russell and Norvig, "Artificial Intelligence: A
    Modern Approach", chapter 3), in which samples stand for the successors of a node.

    Each node is expanded once, and samples of one step from one node count once. With ``best_first``
    order this is greedy best-first search, and with ``nodes_per_round`` it expands as many nodes a round
    as a beam, from any depth. Nothing is ever dropped for want of room, unlike in a beam or in the
    breadth-first search of Tree of Thoughts, which keep the best of each level. Ends when the frontier
    is empty.

    Attributes:
        order: which node is first.
        branching: samples a node.
        nodes_per_round: nodes expanded in one round.
        score: of a node; larger is better.
        prune_below: nodes with a smaller score do not join the frontier.
        scores_partial: whether the verifier judges each step, so that ``score`` can read its verdict.
    """

    order: Order = best_first
    branching: int = field(default=4, validator=validators.ge(1))
    nodes_per_round: int = field(default=1, validator=validators.ge(1))
    score: NodeScore = mean_log_prob
    prune_below: float | None = None
    scores_partial: bool = False

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        first = heapq.nsmallest(self.nodes_per_round, tree.memo.get(_FRONTIER, [[[], tree.start]]))
        return [Expansion(node, count=self.branching, until="step") for _, node in first]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        frontier = tree.memo.setdefault(_FRONTIER, [[[], tree.start]])
        # The smallest are those that were asked for; what the budget did not reach goes back.
        asked = [heapq.heappop(frontier) for _ in results]
        for item, result in zip(asked, results, strict=True):
            if not result.completions:
                heapq.heappush(frontier, item)
        ends = [nodes[-1] for result in results for nodes in result.completions]
        for node in without_copies(tree, filter(tree.is_open, ends)):
            score = score_node(self.score, tree, node)
            if self.prune_below is None or score >= self.prune_below:
                # A list, as JSON would give it back.
                heapq.heappush(frontier, [list(self.order(tree.depth[node], score)), node])
        if not frontier:
            tree.mark_exhausted(0)
