"""Beam search over reasoning steps, over the whole tree or in subtrees that do not compete."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from random import Random
from typing import Final

from attrs import field, frozen, validators

from rftt.search.scores import NodeScore, mean_log_prob, score_node, without_copies
from rftt.search.searcher import Expansion, ExpansionResult, Searcher
from rftt.search.tree.tree import SearchTree

_BEAM: Final = "beam"


@frozen(kw_only=True)
class _LevelSearch(Searcher):
    """Expand all paths that were kept by one step, then choose which to keep.

    Attributes:
        branching: samples of one step for each path.
        score: what "best" means; larger is better.
        scores_partial: whether the verifier judges each step, so that ``score`` can read its verdict.
    """

    branching: int = field(default=4, validator=validators.ge(1))
    score: NodeScore = mean_log_prob
    scores_partial: bool = False

    @property
    @abstractmethod
    def _first_paths(self) -> int:
        """How many paths begin at the question."""

    @abstractmethod
    def _counts(self, paths: int) -> list[int]:
        """Say how many samples each of some paths gets, the best path first."""

    @abstractmethod
    def _keep(self, tree: SearchTree, samples: Sequence[Sequence[int]]) -> list[int]:
        """Choose among the samples of each path, best first, those that are kept."""

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        paths: list[int] = tree.memo.get(_BEAM, [tree.start] * self._first_paths)
        return [
            Expansion(node, count=count, until="step")
            for node, count in zip(paths, self._counts(len(paths)), strict=True)
        ]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        samples = [[nodes[-1] for nodes in result.completions] for result in results]
        kept = [node for node in self._keep(tree, samples) if tree.is_open(node)]
        tree.memo[_BEAM] = kept
        if not kept:
            tree.mark_exhausted(0)

    def _best(self, tree: SearchTree, nodes: Sequence[int], count: int) -> list[int]:
        scores = {node: score_node(self.score, tree, node) for node in nodes}
        return sorted(nodes, key=lambda node: -scores[node])[:count]


@frozen
class BeamSearch(_LevelSearch):
    """Search by a beam over steps (Snell et al. 2024, arXiv 2408.03314): sample ``width * branching``
    steps, keep the best ``width`` paths, and go on from these.

    So the paper's number of beams ``N`` is ``width * branching`` here, and its beam width ``M`` is
    ``branching``. Each round samples ``N`` steps, the first too, shared evenly among the paths that are
    kept. What the paper leaves open is as in search-and-learn (Beeching et al. 2024, "Scaling test-time
    compute with open models"): a path that has ended leaves the beam and makes room for the next best,
    and where fewer than ``width`` are left, because others have ended or are copies, each gets more
    samples. Ends when no unfinished path is left. Where ends should keep their place,
    :class:`~rftt.search.strategies.levels.tree_of_thoughts.TreeOfThoughts` does that.

    Attributes:
        width: paths kept.
        distinct: whether paths of equal steps count once, so that a beam does not fill up with copies of
            one. Credit that takes the children of a node for samples of the policy needs all of them.
        branching: samples a path of a full beam.
        score: what "best" means; larger is better.
        scores_partial: whether the verifier judges each step, so that ``score`` can read its verdict.
    """

    width: int = field(default=4, validator=validators.ge(1))
    distinct: bool = True

    @property
    def _first_paths(self) -> int:
        return 1

    def _counts(self, paths: int) -> list[int]:
        return even_shares(self.width * self.branching, paths)

    def _keep(self, tree: SearchTree, samples: Sequence[Sequence[int]]) -> list[int]:
        unfinished = [node for nodes in samples for node in nodes if tree.is_open(node)]
        candidates = without_copies(tree, unfinished) if self.distinct else unfinished
        return self._best(tree, candidates, self.width)


@frozen
class DiverseTreeSearch(_LevelSearch):
    """Grow ``subtrees`` paths that do not compete: diverse verifier tree search, DVTS (Beeching et al.
    2024, "Scaling test-time compute with open models").

    In each round, the first too, each path gets ``branching`` samples of one step of its own, of which
    the best is kept. So paths stay apart where a beam would narrow to one idea. A path ends where its
    best step does.

    Attributes:
        subtrees: paths.
        branching: samples of each step.
        score: what "best" means; larger is better.
        scores_partial: whether the verifier judges each step, so that ``score`` can read its verdict.
    """

    subtrees: int = field(default=4, validator=validators.ge(1))

    @property
    def _first_paths(self) -> int:
        return self.subtrees

    def _counts(self, paths: int) -> list[int]:
        return [self.branching] * paths

    def _keep(self, tree: SearchTree, samples: Sequence[Sequence[int]]) -> list[int]:
        return [node for nodes in samples for node in self._best(tree, nodes, 1)]


def even_shares(samples: int, paths: int) -> list[int]:
    """Share samples evenly among paths; what is left over goes to the first, one each."""
    each, left = divmod(samples, paths)
    return [each + (place < left) for place in range(paths)]
