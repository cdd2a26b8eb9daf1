"""A bounded buffer of solved paths, for rejection sampling and self-imitation."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, TypedDict

from rftt.interfaces import State
from rftt.learners.distributed import gather
from rftt.learners.learner import TokenPolicy
from rftt.learners.rollouts.judged import JudgedRollout, judged_rollouts
from rftt.search.tree.tree import SearchTree

_log = logging.getLogger(__name__)


class SolvedPath(TypedDict):
    """A path as a supervised learner's ``collate`` takes it.

    Attributes:
        problem_id: the id of its problem.
        score: its outcome.
        ids: the token ids of the question and of all steps.
        action_mask: for each id, whether to learn it: ids that the policy drew, and openers of steps,
            whoever chose them; not the question, nor what a tool returned.
        log_probs: for each id, its natural log-probability when the policy drew it; 0 where it did not.
    """

    problem_id: str
    score: float
    ids: list[int]
    action_mask: list[bool]
    log_probs: list[float]


class ReplayBuffer:
    """Keeps solved paths of search trees; where there are too many, the oldest go.

    It is the same on every process, and so are its samples, of which each process takes its part,
    ``paths[rank::world_size]``. All that is in it is JSON-able.

    Args:
        capacity: most paths.
        per_problem: most paths of one problem, so that easy ones do not crowd out the others.
        min_score: least score of a path.
        seed: of samples.

    Attributes:
        paths: the paths, oldest first.
        samples: how often it was sampled.

    Raises:
        ValueError: if a limit is below 1.
    """

    def __init__(
        self, capacity: int, per_problem: int, *, min_score: float = 1.0, seed: int = 0
    ) -> None:
        if capacity < 1 or per_problem < 1:
            raise ValueError(
                f"capacity and per_problem must be 1 or more, not {capacity} and {per_problem}"
            )
        self.capacity = capacity
        self.per_problem = per_problem
        self.min_score = min_score
        self.seed = seed
        self.paths: list[SolvedPath] = []
        self.samples = 0

    def __len__(self) -> int:
        return len(self.paths)

    def add(self, trees: Sequence[SearchTree], policy: TokenPolicy) -> None:
        """Add the solved paths of trees, which ``policy`` sampled. One that is there already is left
        out.

        With several processes all of them call it, each with its own trees or none.
        """
        found = [
            [_solved_path(rollout, policy) for rollout in rollouts if rollout.score >= self.min_score]
            for rollouts in judged_rollouts(trees, log=False)
        ]
        self._extend(_of_all_processes(found))

    def _extend(self, paths: Sequence[SolvedPath]) -> None:
        known = {(path["problem_id"], *path["ids"]) for path in self.paths}
        counts = Counter(path["problem_id"] for path in self.paths)
        added = removed = 0
        for path in paths:
            key = (path["problem_id"], *path["ids"])
            if key in known:
                continue
            known.add(key)
            self.paths.append(path)
            added += 1
            counts[path["problem_id"]] += 1
            if counts[path["problem_id"]] > self.per_problem:
                oldest = next(p for p in self.paths if p["problem_id"] == path["problem_id"])
            elif len(self.paths) > self.capacity:
                oldest = self.paths[0]
            else:
                continue
            self.paths.remove(oldest)
            counts[oldest["problem_id"]] -= 1
            removed += 1
        _log.info(
            "%d solved paths: %d added, %d known already, %d older ones removed; the buffer holds %d",
            len(paths), added, len(paths) - added, removed, len(self),
        )  # fmt: skip

    def sample(self, number: int) -> list[SolvedPath]:
        """Return ``number`` different paths, or all if there are fewer: a function of what the buffer
        holds, the seed and how often it was sampled before."""
        rng = Random(f"{self.seed}/{self.samples}")
        self.samples += 1
        return rng.sample(self.paths, min(number, len(self)))

    def state_dict(self) -> dict[str, Any]:
        """Return the paths, and how often they were sampled."""
        return {"paths": list(self.paths), "samples": self.samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, within this buffer's limits."""
        self.paths = []
        self._extend(state["paths"])
        self.samples = state["samples"]


def _solved_path(rollout: JudgedRollout, policy: TokenPolicy) -> SolvedPath:
    state = rollout.tree.state(rollout.end)
    ids = list(policy.context(State(state.problem)))
    action_mask, log_probs = [False] * len(ids), [0.0] * len(ids)
    for step in state.steps:
        ids += step.ids
        action_mask += [True] * step.body_start + list(step.action_mask[step.body_start :])
        drawn = zip(step.log_probs, step.action_mask, strict=True)
        log_probs += [log_prob if is_drawn else 0.0 for log_prob, is_drawn in drawn]
    return SolvedPath(
        problem_id=state.problem.id, score=rollout.score, ids=ids, action_mask=action_mask,
        log_probs=log_probs,
    )  # fmt: skip


def _of_all_processes(found: list[list[SolvedPath]]) -> list[SolvedPath]:
    """Return the paths of each tree of each process, in the order of the global batch, of which process
    ``r`` has trees ``r``, ``r + world_size`` and so on."""
    gathered = gather(found)
    number = max(map(len, gathered))
    return [
        path for tree in range(number) for trees in gathered if tree < len(trees) for path in trees[tree]
    ]
