"""The exact policy gradient of a finite problem, by enumeration of all its paths."""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import frozen
from jaxtyping import Float
from torch import Tensor

from rftt.interfaces import Verdict
from rftt.testing.finite.model import QUESTION, FiniteModel
from rftt.testing.finite.problem import FiniteProblem
from rftt.testing.finite.tabular import named_paths

Reward = Callable[[Verdict], float | None]
"""What all rewards of a rollout add up to, given its verdict; ``None`` where it has none."""


def outcome(verdict: Verdict) -> float | None:
    """Return the score."""
    return verdict.score


@frozen(eq=False)
class Paths:
    """All paths of a finite problem that have a reward.

    Attributes:
        log_probs: the log-probability of each under the model; gradients flow to its table.
        rewards: the reward of each.
    """

    log_probs: Float[Tensor, " paths"]
    rewards: Float[Tensor, " paths"]


def judged_paths(
    model: FiniteModel,
    problem: FiniteProblem,
    temperature: float = 1.0,
    reward: Reward = outcome,
) -> Paths:
    """Return all paths with a reward, in double precision.

    Args:
        model: gives the probabilities.
        problem: whose paths they are.
        temperature: divides the logits, as in sampling.
        reward: of a verdict.

    Raises:
        ValueError: if no path has a reward.
    """
    log_softmax = _log_softmax(model, temperature)
    row = {prefix: number for number, prefix in enumerate(model.prefixes)}
    log_probs, rewards = [], []
    for ids, texts, _ in named_paths(problem.policy):
        if (found := reward(problem.verdicts[texts])) is not None:
            whole = (QUESTION, *ids)
            rows = torch.tensor([row[whole[:place]] for place in range(1, len(whole))])
            log_probs.append(log_softmax[rows, torch.tensor(ids)].sum())
            rewards.append(found)
    if not rewards:
        raise ValueError("problem: every verdict abstains; there is no reward to expect")
    return Paths(torch.stack(log_probs), torch.tensor(rewards, dtype=torch.float64))


def expected_reward(
    model: FiniteModel,
    problem: FiniteProblem,
    temperature: float = 1.0,
    reward: Reward = outcome,
) -> Float[Tensor, ""]:
    """Return the expected reward of a rollout, as a function of the model's table.

    It is ``J = sum_l P(l) R(l)`` over the ends ``l``. Where a verdict abstains, it is the expectation
    given that it does not: ``J = E[R | judged]``. REINFORCE over the judged rollouts alone, with their
    mean ``b`` as baseline, ascends just that: as ``grad log P(judged) = E[grad log P(l) | judged]``,
    ``grad J = E[(R - b) grad log P(l) | judged]``.

    Arguments and errors are those of :func:`judged_paths`.
    """
    found = judged_paths(model, problem, temperature, reward)
    return found.log_probs.softmax(0) @ found.rewards


def policy_gradient(
    model: FiniteModel,
    problem: FiniteProblem,
    temperature: float = 1.0,
    reward: Reward = outcome,
) -> Float[Tensor, "prefixes vocab"]:
    """Return the gradient of :func:`expected_reward` by the model's table, in double precision.

    It points where the expected reward grows. A loss that is right has its negative for a gradient, up
    to a positive factor.
    """
    reached = expected_reward(model, problem, temperature, reward)
    (gradient,) = torch.autograd.grad(reached, model.table)
    return gradient.double()


def _log_softmax(model: FiniteModel, temperature: float) -> Float[Tensor, "prefixes vocab"]:
    """Return the log-probability of each id after each prefix."""
    logits = model.table.double() / temperature
    return logits.masked_fill(~model.allowed, -torch.inf).log_softmax(-1)
