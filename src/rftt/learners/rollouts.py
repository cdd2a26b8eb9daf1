"""The rollouts of search trees that a learner may learn from."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from attrs import frozen

from rftt.interfaces import Verdict
from rftt.search.tree.tree import SearchTree

_log = logging.getLogger(__name__)


@frozen
class ScoredRollout:
    """A path of a tree that the verifier gave a score.

    Attributes:
        group: the place of the tree among the trees; rollouts of one tree are a group.
        tree: the tree.
        end: the node at which the rollout ended.
        verdict: the verdict on it.
        score: the verdict's score.
    """

    group: int
    tree: SearchTree
    end: int
    verdict: Verdict
    score: float


def scored_rollouts(trees: Sequence[SearchTree]) -> list[ScoredRollout]:
    """Return the scored rollouts of some trees, one for each node at which rollouts ended.

    A rollout without a verdict, such as one that the budget cut, and one on which the verifier
    abstained are no failures: they are left out, and counted in the log.
    """
    rollouts: list[ScoredRollout] = []
    unjudged = abstained = 0
    for group, tree in enumerate(trees):
        for end in tree.ends():
            verdict = tree.verdict[end]
            if verdict is None:
                unjudged += tree.ended[end]
            elif verdict.score is None:
                abstained += tree.ended[end]
            else:
                rollouts.append(ScoredRollout(group, tree, end, verdict, verdict.score))
    if unjudged or abstained:
        _log.log(
            logging.WARNING if abstained else logging.INFO,
            "left out %d of %d rollouts: %d without a verdict, %d on which the verifier abstained",
            unjudged + abstained,
            sum(sum(tree.ended) for tree in trees),
            unjudged,
            abstained,
        )
    return rollouts
