"""Rewards: from a judged rollout to one reward for each of its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rftt.learners.rollouts.judged import JudgedRollout

StepRewards = Callable[[JudgedRollout], Sequence[float]]
"""``rewards(rollout)``: one reward for each step of its path, first step first."""


def outcome_rewards(rollout: JudgedRollout) -> list[float]:
    """Reward the last step with the verdict's score, and the others with 0."""
    return [0.0] * (rollout.tree.depth[rollout.end] - 1) + [rollout.score]


def process_rewards(rollout: JudgedRollout, outcome_weight: float = 0.6) -> list[float]:
    """Reward each step with its score by the verifier.

    The last step gets ``outcome_weight * outcome + (1 - outcome_weight) * score`` (arXiv 2502.13389,
    which uses 0.6).

    Raises:
        ValueError: naming the tree, if the verdict does not score each step of the path.
    """
    steps, scores = rollout.tree.depth[rollout.end], rollout.verdict.step_scores
    if scores is None or len(scores) != steps:
        found = "no steps" if scores is None else f"{len(scores)} steps"
        raise ValueError(
            f"tree {rollout.tree.problem.id!r}: the verdict on node {rollout.end} scores {found}, its "
            f"path has {steps}; process rewards need a verifier that sets step_scores, one a step"
        )
    *before, last = scores
    return [*before, outcome_weight * rollout.score + (1 - outcome_weight) * last]


def overlong_penalty(
    rewards: StepRewards = outcome_rewards, *, max_length: int, cache: int
) -> StepRewards:
    """Add DAPO's soft overlong punishment to the last step's reward (arXiv 2503.14476, equation 13).

    It is 0 up to a length of ``max_length - cache``, falls linearly to -1 at ``max_length``, and is -1
    beyond. Truncated rollouts get no punishment, because no credit counts them (the paper's overlong
    filtering).

    Args:
        rewards: what it is added to.
        max_length: sampled tokens of a path (the paper's ``L_max``, 20480 there).
        cache: the last so many of them are punished (``L_cache``, 4096 there).

    Raises:
        ValueError: if not ``0 < cache <= max_length``.
    """
    if not 0 < cache <= max_length:
        raise ValueError(
            f"overlong_penalty: cache={cache} of max_length={max_length}; give 0 < cache <= max_length"
        )

    def punished(rollout: JudgedRollout) -> list[float]:
        *before, last = rewards(rollout)
        beyond = rollout.tokens - (max_length - cache)
        return [*before, last - min(1.0, max(0.0, beyond / cache))]

    return punished
