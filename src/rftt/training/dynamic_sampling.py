"""Dynamic sampling: more problems are searched until enough of them teach something."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from attrs import field, frozen, validators

from rftt.learners.distributed import global_sums
from rftt.learners.rollouts.judged import equal_outcomes, judged_rollouts
from rftt.problems.problem import Problem
from rftt.search.tree.tree import SearchTree
from rftt.training.curriculum import Curriculum
from rftt.training.tree_rollouts import Rollouts

_log = logging.getLogger(__name__)


def informative(trees: Sequence[SearchTree]) -> list[SearchTree]:
    """Return the trees whose judged rollouts differ in outcome: those that a group baseline learns
    from."""
    groups = judged_rollouts(trees, log=False)
    return [tree for tree, rollouts in zip(trees, groups, strict=True) if not equal_outcomes(rollouts)]


@frozen(eq=False)
class DynamicSampling:
    """Searches more problems until enough of them have rollouts that differ in outcome
    (DAPO, arXiv 2503.14476, section 3.2).

    It takes the place of ``tree_rollouts``, as ``Tuner(..., tree_rollouts=DynamicSampling(...))``, and
    returns all trees that were searched: statistics and the curriculum need those with equal outcomes
    too, and a learner with ``drop_equal_groups=True`` leaves them out.

    Attributes:
        tree_rollouts: searches this process's share of some problems, in an update.
        curriculum: gives more problems.
        max_extra: most problems that are searched in an update beyond its batch, over all processes.
    """

    tree_rollouts: Rollouts
    curriculum: Curriculum
    max_extra: int = field(validator=validators.ge(1))

    def __call__(self, problems: Sequence[Problem], update: int) -> list[SearchTree]:
        """Return one tree for each problem of this process's share of those that were searched.

        With several processes all of them call it, with the same batch. Short of informative trees it
        asks for as many problems as are missing, so there are never more of them than the batch has
        problems.
        """
        trees = self.tree_rollouts(problems, update)
        extra = 0
        while True:
            found = int(global_sums({"informative": float(len(informative(trees)))})["informative"])
            missing = min(len(problems) - found, self.max_extra - extra)
            more = self.curriculum.refill(missing) if missing > 0 else []
            if not more:
                break
            trees += self.tree_rollouts(more, update)
            extra += len(more)
        _log.log(
            logging.INFO if found >= len(problems) else logging.WARNING,
            "update %d: %d of %d groups have rollouts that differ in outcome; %d were wanted",
            update, found, len(problems) + extra, len(problems),
        )  # fmt: skip
        return trees
