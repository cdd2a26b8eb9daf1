"""Credit by outcome: each rollout counts, compared with the other rollouts of its group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from rftt.learners.credit.paths import PathCredit
from rftt.learners.credit.rewards import StepRewards, outcome_rewards
from rftt.learners.rollouts.judged import JudgedRollout, judged_rollouts
from rftt.search.tree.tree import SearchTree

Baseline = Literal["none", "mean", "leave_one_out"]
Scale = Literal["none", "std"]
Groups = Literal["tree", "problem", "both"]


def group_outcome(
    trees: Sequence[SearchTree],
    *,
    baseline: Baseline = "leave_one_out",
    scale: Scale = "none",
    groups: Groups = "tree",
    rewards: StepRewards = outcome_rewards,
    std_eps: float = 1e-4,
) -> list[list[PathCredit]]:
    """Give every step of a rollout the rollout's return, less a baseline of its group.

    It estimates the policy gradient of the expected return where rollouts are independent samples of
    the policy (best-of-n): ``E[sum over rollouts of count * advantage * grad log pi(path)]``.

    * ``baseline="none"``: the reward to go of each step (REINFORCE). Unbiased.
    * ``"leave_one_out"``: less the mean return of the group's other rollouts (RLOO, arXiv 2402.14740).
      Unbiased. A group of one has nothing to compare with: its advantage is 0.
    * ``"mean"``: less the mean return of the group (GRPO, arXiv 2402.03300). Biased by the factor
      ``(n - 1) / n``, since each rollout is part of its own baseline; the direction is right.
    * ``scale="std"``: divided by the group's standard deviation plus ``std_eps`` (GRPO). Problems then
      count by how uncertain their outcome is, a bias that Dr. GRPO (arXiv 2503.20783) takes out.

    A return less a baseline of returns is also a reward to go less a baseline to go, namely the baseline
    less the rewards before: so process rewards may be given as well. A group of equal returns gets
    exactly 0, unless there is no baseline. Where rollouts are left out (truncated, abstained), it is the
    expected return given that a rollout is judged; without a baseline, as if they had returned 0.

    **Bias on trees that a search steers.** MCTS and beam search send more rollouts where scores were
    high, and rollouts share steps. Then counts are visits, not samples: the gradient is that of another
    distribution, and the group's mean is too high (cosine with the exact gradient on random problems
    0.95, where best-of-n has 1.000). Use
    :func:`~rftt.learners.credit.policy_weighted.policy_weighted` there.

    Args:
        trees: search trees.
        baseline: what is subtracted.
        scale: what the difference is divided by.
        groups: what is compared: the rollouts of a tree, those of all trees with the same question, or
            ``"both"``, the sum of the two advantages (intra-tree plus inter-tree: Tree-GRPO, arXiv
            2509.21240). The trees of a question must all be given in one call.
        rewards: of each step.
        std_eps: see ``scale``. The standard deviation is that of a sample (divided by ``n - 1``), as in
            TRL (which adds 1e-4), verl (1e-6) and OpenRLHF (1e-9); the paper states neither.

    Raises:
        ValueError: if there is a scale without a baseline: a return is no deviation.
    """
    if scale == "std" and baseline == "none":
        raise ValueError(
            "group_outcome: scale='std' divides deviations from a mean; give it baseline='mean' (GRPO) "
            "or 'leave_one_out'"
        )
    rollouts = judged_rollouts(trees)
    step_rewards = [[rewards(rollout) for rollout in group] for group in rollouts]
    if baseline == "none":
        return [
            [_path(r, rewards_to_go(own)) for r, own in zip(group, of_tree, strict=True)]
            for group, of_tree in zip(rollouts, step_rewards, strict=True)
        ]
    advantages = [[0.0] * len(group) for group in rollouts]
    for grouping in ("tree", "problem") if groups == "both" else (groups,):
        for members in _members(trees, rollouts, grouping):
            returns = [math.fsum(step_rewards[t][i]) for t, i in members]
            counts = [float(rollouts[t][i].count) for t, i in members]
            for (t, i), each in zip(
                members, deviations(returns, counts, baseline, scale, std_eps), strict=True
            ):
                advantages[t][i] += each
    return [
        [_path(r, [each] * r.tree.depth[r.end]) for r, each in zip(group, of_tree, strict=True)]
        for group, of_tree in zip(rollouts, advantages, strict=True)
    ]


def deviations(
    values: Sequence[float],
    counts: Sequence[float],
    baseline: Literal["mean", "leave_one_out"],
    scale: Scale = "none",
    std_eps: float = 0.0,
) -> list[float]:
    """Return each value less a baseline of all, divided by a scale. Equal values give exactly 0.

    Args:
        values: any numbers.
        counts: how often each is there. A value that is there several times leaves out one of them.
        baseline: the mean, or the mean of the others; 0 remains of a single value.
        scale: ``"std"`` divides by the sample's standard deviation plus ``std_eps``.
        std_eps: see ``scale``.
    """
    number = sum(counts)
    if number <= 1:
        return [0.0] * len(values)
    result = centred(values, counts)
    spread = 1.0
    if scale == "std":
        squares = math.fsum([d * d * count for d, count in zip(result, counts, strict=True)])
        spread = math.sqrt(squares / (number - 1)) + std_eps
        if spread == 0:
            return [0.0] * len(values)
    # Less the mean of the n - 1 others is n / (n - 1) times less the mean of all.
    others = number - 1 if baseline == "leave_one_out" else number
    return [number * d / others / spread for d in result]


def centred(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return each value less the weighted mean of all. Equal values give exactly 0."""
    # Differences to one of the values: where all are equal they are 0 without rounding.
    moved = [value - values[0] for value in values]
    mean = math.fsum([m * w for m, w in zip(moved, weights, strict=True)]) / math.fsum(weights)
    return [m - mean for m in moved]


def rewards_to_go(rewards: Sequence[float]) -> list[float]:
    """Return, for each step, the sum of its reward and of those after it."""
    return list(accumulate(reversed(rewards)))[::-1]


def _path(rollout: JudgedRollout, advantages: Sequence[float]) -> PathCredit:
    count = float(rollout.count)
    return PathCredit(rollout.end, count, tuple(advantages), (count,) * len(advantages))


def _members(
    trees: Sequence[SearchTree], rollouts: Sequence[Sequence[JudgedRollout]], grouping: Groups
) -> list[list[tuple[int, int]]]:
    """Return, for each group, the places of its rollouts: the tree's, and the one in the tree."""
    found: dict[int | str, list[tuple[int, int]]] = {}
    for t, (tree, group) in enumerate(zip(trees, rollouts, strict=True)):
        key = t if grouping == "tree" else tree.problem.question
        found.setdefault(key, []).extend((t, i) for i in range(len(group)))
    return list(found.values())
