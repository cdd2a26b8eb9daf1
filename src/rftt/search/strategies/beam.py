"""Beam search over reasoning steps, over the whole tree or in subtrees that do not compete."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from attrs import field, frozen, validators

from rftt.search.scores import NodeScore, mean_log_prob
from rftt.search.searcher import Expansion, ExpansionResult, Searcher
from rftt.search.tree.tree import SearchTree

_BEAM: Final = "beam"


@frozen
class BeamSearch(Searcher):
    """Expand every path of the beam by ``branching`` samples of one step, and keep the best ``width``
    unfinished paths as the next beam. Ends when no unfinished path is left.

    Attributes:
        width: paths kept.
        branching: samples a path.
        score: what "best" means; larger is better.
        scores_partial: whether the verifier judges each step, so that ``score`` can read its verdict.
    """

    width: int = field(default=4, validator=validators.ge(1))
    branching: int = field(default=4, validator=validators.ge(1))
    score: NodeScore = mean_log_prob
    scores_partial: bool = False

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        beam: list[int] = tree.memo.get(_BEAM, [tree.start])
        return [Expansion(node, count=self.branching, until="step") for node in beam]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        ends = [nodes[-1] for result in results for nodes in result.completions]
        alive = [node for node in ends if tree.is_open(node)]
        alive.sort(key=lambda node: -self.score(tree, node))
        tree.memo[_BEAM] = alive[: self.width]
        if not alive:
            tree.mark_exhausted(0)


@frozen
class DiverseTreeSearch(Searcher):
    """Grow ``subtrees`` paths that do not compete: diverse verifier tree search, DVTS (Beeching et al.
    2024).

    Each path begins with a first step of its own. In each round it gets ``branching`` samples of one
    step, of which the best is kept. So paths stay apart where a beam would narrow to one idea.

    Attributes:
        subtrees: paths.
        branching: samples of each step.
        score: what "best" means; larger is better.
        scores_partial: whether the verifier judges each step, so that ``score`` can read its verdict.
    """

    subtrees: int = field(default=4, validator=validators.ge(1))
    branching: int = field(default=4, validator=validators.ge(1))
    score: NodeScore = mean_log_prob
    scores_partial: bool = False

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        if _BEAM not in tree.memo:
            return [Expansion(tree.start, count=self.subtrees, until="step")]
        return [Expansion(node, count=self.branching, until="step") for node in tree.memo[_BEAM]]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        ends = [[nodes[-1] for nodes in result.completions] for result in results]
        if _BEAM in tree.memo:
            kept = [max(nodes, key=lambda node: self.score(tree, node)) for nodes in ends if nodes]
        else:
            kept = [node for nodes in ends for node in nodes]
        tree.memo[_BEAM] = [node for node in kept if tree.is_open(node)]
        if not tree.memo[_BEAM]:
            tree.mark_exhausted(0)
