"""Searches the problems of an update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

from attrs import evolve, frozen

from rftt.interfaces import Policy, Verifier
from rftt.learners.distributed import rank, world_size
from rftt.problems.problem import Problem
from rftt.search.budget import SearchConfig
from rftt.search.engine.engine import run_search
from rftt.search.engine.progress import progress
from rftt.search.searcher import Searcher
from rftt.search.tree.tree import SearchTree

Rollouts = Callable[[Sequence[Problem], int], list[SearchTree]]
"""From the problems of an update, the same on every process, and its number to this process's trees."""


@frozen(eq=False)
class TreeRollouts:
    """Searches the problems of an update, each process its share.

    Attributes:
        policy: usually samples from the model that is being tuned.
        searcher: the strategy.
        verifier: gives the reward.
        config: the settings of each search, except that its seed is derived from ``config.seed`` and
            the number of the update.
        show_progress: whether a bar shows the completions of each search.
    """

    policy: Policy
    searcher: Searcher
    verifier: Verifier
    config: SearchConfig
    show_progress: bool = False

    def __call__(self, problems: Sequence[Problem], update: int) -> list[SearchTree]:
        """Return one tree for each problem of this process's share, in order: every so manyth problem,
        as there are processes."""
        share = problems[rank() :: world_size()]
        config = evolve(self.config, seed=self.config.seed * 1_000_003 + update)
        total = len(share) * (config.budget.rollouts or 0)
        shown = self.show_progress and rank() == 0
        with progress(total, f"update {update}") if shown else nullcontext() as on_completions:
            return run_search(
                share, self.searcher, self.policy, self.verifier, config, on_completions=on_completions
            )
