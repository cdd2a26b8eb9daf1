"""Credit by values: what a step changed in the tree's Monte-Carlo value of the state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from rftt.learners.credit.paths import PathCredit
from rftt.learners.credit.policy_weighted import policy_weights
from rftt.learners.credit.rewards import StepRewards, outcome_rewards
from rftt.learners.rollouts.judged import JudgedRollout, judged_rollouts
from rftt.search.tree.tree import SearchTree

Kind = Literal["vine", "treerl"]
Values = Literal["visits", "children"]


def step_values(
    trees: Sequence[SearchTree],
    *,
    kind: Kind = "vine",
    values: Values = "visits",
    rewards: StepRewards = outcome_rewards,
) -> list[list[PathCredit]]:
    """Compare the value after a step with the value before it.

    ``V(n)`` is the mean return of the rollouts through a node.

    * ``kind="vine"``: ``A(n) = V(n) - V(parent)`` (VinePPO, arXiv 2410.01679). With rewards of steps it
      is ``r(n)`` plus the value to go after the step, less the value to go before it.
    * ``"treerl"``: ``A(n) = ((V(n) - V(root)) + (V(n) - V(parent))) / sqrt(L(n))``, the global and the
      local advantage, with ``L(n)`` the rollouts through the node (TreeRL, arXiv 2506.11902). There as
      here each rollout is a sequence, so a step is repeated ``L(n)`` times; the root of that takes half
      of its logarithm back.

    It estimates the policy gradient in the limit of many children a node. **Bias:**

    * VinePPO samples its values apart from the path. A tree's ``V(parent)`` holds the child's own
      rollouts, which shrinks the advantage by ``(k - 1) / k`` where a node has k children. An only child
      gets 0 of ``"vine"``: it learns only where the tree branches, on best-of-n trees only at the first
      step. Steps so weigh by how much the tree branches there, and the direction is off too.
    * ``"treerl"`` adds the change since the root and divides by a number that the search decides: its
      direction is not that of the gradient of the expected return, also not in the limit.
    * ``values="visits"`` sees where the search looked: UCT comes back to what was good. ``"children"``
      counts each sampled child once, in values and in weights. Prefer
      :func:`~rftt.learners.credit.policy_weighted.policy_weighted`: its baseline leaves the child out.

    Args:
        trees: search trees.
        kind: what is compared.
        values: how rollouts count in values and in weights: each once, or by the policy's weights.
        rewards: of each step; the return is their sum.
    """
    return [_credit(rollouts, kind, values, rewards) for rollouts in judged_rollouts(trees)]


def _credit(
    rollouts: Sequence[JudgedRollout], kind: Kind, values: Values, rewards: StepRewards
) -> list[PathCredit]:
    if not rollouts:
        return []
    if values == "visits":
        weights = [float(rollout.count) for rollout in rollouts]
    else:
        node_weights = policy_weights(rollouts).of
        weights = [node_weights[rollout.end] for rollout in rollouts]
    paths = [rollout.path for rollout in rollouts]
    returns = [math.fsum(rewards(rollout)) for rollout in rollouts]
    mean, leaves = _mean_returns(rollouts, paths, returns, weights)
    parent = rollouts[0].tree.parent
    credits = []
    for rollout, path, weight in zip(rollouts, paths, weights, strict=True):
        advantages = [mean[node] - mean[parent[node]] for node in path]
        if kind == "treerl":
            advantages = [
                (mean[node] - mean[0] + local) / math.sqrt(leaves[node])
                for node, local in zip(path, advantages, strict=True)
            ]
        credits.append(PathCredit(rollout.end, float(rollout.count), advantages, [weight] * len(path)))
    return credits


def _mean_returns(
    rollouts: Sequence[JudgedRollout],
    paths: Sequence[Sequence[int]],
    returns: Sequence[float],
    weights: Sequence[float],
) -> tuple[dict[int, float], dict[int, int]]:
    """Return, for each node, the weighted mean of the returns of rollouts through it, less a constant of
    the tree; and the number of these rollouts."""
    # Less one of the returns, so that equal ones give exactly 0 whatever the weights round to.
    origin = returns[0]
    sums, totals = dict[int, float](), dict[int, float]()
    leaves = dict[int, int]()
    for rollout, path, value, weight in zip(rollouts, paths, returns, weights, strict=True):
        for node in (0, *path):
            sums[node] = sums.get(node, 0.0) + weight * (value - origin)
            totals[node] = totals.get(node, 0.0) + weight
            leaves[node] = leaves.get(node, 0) + rollout.count
    # A weight is 0 only where it underflows: nothing is learned from such a node.
    return {node: sums[node] / (totals[node] or 1.0) for node in sums}, leaves
