"""Beam search over reasoning steps, whole or in subtrees that do not compete."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from attrs import field, frozen, validators

from rftt.search.scores import NodeScore, mean_log_prob
from rftt.search.searcher import Expansion, Growth, Searcher
from rftt.search.tree import SearchTree

_BEAM: Final = "beam"


@frozen
class BeamSearch(Searcher):
    """In each round every path of the beam grows by ``branching`` samples of one step; the best
    ``width`` unfinished paths form the next beam. Ends when no unfinished path is left.

    Attributes:
        width: paths kept.
        branching: samples a path.
        score: what "best" means; larger is better.
        judges_steps: whether the verifier judges each step, so that ``score`` can read its verdict.
    """

    width: int = field(default=4, validator=validators.ge(1))
    branching: int = field(default=4, validator=validators.ge(1))
    score: NodeScore = mean_log_prob
    judges_steps: bool = False

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        beam: list[int] = tree.memo.get(_BEAM, [tree.start])
        return [Expansion(node, count=self.branching, until="step") for node in beam]

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
        ends = [chain[-1] for growth in grown for chain in growth.chains]
        alive = [node for node in ends if tree.is_open(node)]
        alive.sort(key=lambda node: -self.score(tree, node))
        tree.memo[_BEAM] = alive[: self.width]
        if not alive:
            tree.close(0)


@frozen
class DiverseTreeSearch(Searcher):
    """Diverse verifier tree search, DVTS (Beeching et al. 2024): ``subtrees`` first steps, from each of
    which a path of its own grows: ``branching`` samples of one step, of which the best is kept.
    Paths do not compete, so they stay apart where a beam would narrow to one idea.

    Attributes:
        subtrees: paths.
        branching: samples of each step.
        score: what "best" means; larger is better.
        judges_steps: whether the verifier judges each step, so that ``score`` can read its verdict.
    """

    subtrees: int = field(default=4, validator=validators.ge(1))
    branching: int = field(default=4, validator=validators.ge(1))
    score: NodeScore = mean_log_prob
    judges_steps: bool = False

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        if _BEAM not in tree.memo:
            return [Expansion(tree.start, count=self.subtrees, until="step")]
        return [Expansion(node, count=self.branching, until="step") for node in tree.memo[_BEAM]]

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
        ends = [[chain[-1] for chain in growth.chains] for growth in grown]
        if _BEAM in tree.memo:
            kept = [max(nodes, key=lambda node: self.score(tree, node)) for nodes in ends if nodes]
        else:
            kept = [node for nodes in ends for node in nodes]
        tree.memo[_BEAM] = [node for node in kept if tree.is_open(node)]
        if not tree.memo[_BEAM]:
            tree.close(0)
