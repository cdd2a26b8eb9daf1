"""Beam search over reasoning steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from attrs import field, frozen, validators

from rftt.search.searcher import Expansion, Growth, Searcher
from rftt.search.tree import SearchTree

NodeScore = Callable[[SearchTree, int], float]

_BEAM: Final = "beam"


def mean_log_prob(tree: SearchTree, node: int) -> float:
    """Mean log-probability of the ids on the path to a node: how sure the policy was, whatever the
    path's length."""
    log_probs = [p for segment in tree.solution(node).steps for p in segment.log_probs]
    return sum(log_probs) / len(log_probs) if log_probs else 0.0


@frozen
class BeamSearch(Searcher):
    """In each round every path of the beam grows by ``branching`` samples of one step; the best
    ``width`` unfinished paths form the next beam. Ends when no unfinished path is left.

    Attributes:
        width: paths kept.
        branching: samples a path.
        score: what "best" means; larger is better.
    """

    width: int = field(default=4, validator=validators.ge(1))
    branching: int = field(default=4, validator=validators.ge(1))
    score: NodeScore = mean_log_prob

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        beam: list[int] = tree.memo.get(_BEAM, [0])
        return [Expansion(node, count=self.branching, until="step") for node in beam]

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
        ends = [chain[-1] for growth in grown for chain in growth.chains]
        alive = [node for node in ends if tree.is_open(node)]
        alive.sort(key=lambda node: -self.score(tree, node))
        tree.memo[_BEAM] = alive[: self.width]
        if not alive:
            tree.close(0)
