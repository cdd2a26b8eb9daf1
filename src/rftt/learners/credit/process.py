"""Credit by process rewards: each step's reward to go, against a baseline to go."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Literal

from rftt.learners.credit.outcome import deviations, rewards_to_go
from rftt.learners.credit.paths import PathCredit
from rftt.learners.credit.rewards import StepRewards, process_rewards
from rftt.learners.rollouts.judged import judged_rollouts
from rftt.search.tree.tree import SearchTree


def group_process(
    trees: Sequence[SearchTree],
    *,
    baseline: Literal["mean_reward", "to_go"] = "mean_reward",
    rewards: StepRewards = process_rewards,
    std_eps: float = 1e-4,
) -> list[list[PathCredit]]:
    """Give each step its reward and those after it, less what the group's rollouts get there.

    * ``baseline="mean_reward"``: GRPO with process supervision (DeepSeekMath, arXiv 2402.03300, section
      4.1.3). All step rewards of the group are normalised by their mean and standard deviation; the
      advantage is the sum of the normalised rewards of this step and of those after it. **Biased:** the
      baseline to go is the mean reward times the steps that are still to come, which the step itself
      decides. So long solutions gain where their steps are above the mean, and lose where below.
    * ``"to_go"``: the reward to go, less the mean reward to go of the group's other rollouts at the same
      number of steps (0 for one that has ended). Unbiased where rollouts are independent samples of the
      policy (best-of-n), because the others know nothing of this step. A group of one gets 0.

    The group is the tree, and each rollout counts, in the group and in the weights. **Biased on trees
    that a search steers**, as :func:`~rftt.learners.credit.outcome.group_outcome` is;
    :func:`~rftt.learners.credit.policy_weighted.policy_weighted` takes process rewards too, and compares
    siblings. Never subtract a mean of returns from rewards to go: of the rewards (1, 1, 1) and
    (1, 1, 0) the first would have a negative advantage at its perfect last step.

    Args:
        trees: search trees whose verdicts score steps.
        baseline: what is subtracted.
        rewards: of each step.
        std_eps: added to the standard deviation, that of a sample (divided by ``n - 1``); the paper
            states neither.
    """
    result = []
    for rollouts in judged_rollouts(trees):
        step_rewards = [rewards(rollout) for rollout in rollouts]
        counts = [float(rollout.count) for rollout in rollouts]
        if baseline == "mean_reward":
            advantages = _sums_of_normalised(step_rewards, counts, std_eps)
        else:
            advantages = _against_others_to_go(step_rewards, counts)
        result.append(
            [
                PathCredit(rollout.end, count, each, [count] * len(each))
                for rollout, count, each in zip(rollouts, counts, advantages, strict=True)
            ]
        )
    return result


def _sums_of_normalised(
    rewards: Sequence[Sequence[float]], counts: Sequence[float], std_eps: float
) -> list[list[float]]:
    values = [reward for each in rewards for reward in each]
    repeated = [count for count, each in zip(counts, rewards, strict=True) for _ in each]
    normalised = iter(deviations(values, repeated, "mean", "std", std_eps))
    return [rewards_to_go([next(normalised) for _ in each]) for each in rewards]


def _against_others_to_go(
    rewards: Sequence[Sequence[float]], counts: Sequence[float]
) -> list[list[float]]:
    # Step by step over all rollouts; one that has ended has nothing to go.
    steps = zip_longest(*[rewards_to_go(each) for each in rewards], fillvalue=0.0)
    compared = [deviations(values, counts, "leave_one_out") for values in steps]
    return [[compared[t][i] for t in range(len(each))] for i, each in enumerate(rewards)]
