"""The promise that a gradient points along the exact policy gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import torch
from attrs import frozen
from torch import Tensor

from rftt.samplers.sampling import SamplingParams
from rftt.search.budget import Budget, SearchConfig
from rftt.search.engine.engine import run_search
from rftt.search.searcher import Searcher
from rftt.testing.finite.gradient import Reward, outcome, policy_gradient
from rftt.testing.finite.model import FiniteModel, FinitePolicy
from rftt.testing.finite.problem import FiniteProblem, Path
from rftt.testing.finite.tabular import Reply
from rftt.testing.learner.measured import measure
from rftt.testing.learner.promises import DirectionBroken
from rftt.testing.learner.workbench import GRAMMAR, Build, verdicts

COSINE: Final = 0.99
_TREES: Final = 32
"""Trees in a batch: enough that moments over the batch are about those of the distribution."""
_NOISE: Final = 0.004
"""The variance of the mean gradient, relative to its square, that is small enough to judge: it takes at
most 0.002 off the cosine of a right learner, and leaves a standard error of about as much."""
_ERRORS: Final = 3.0
"""Standard errors between the cosine and the one demanded, from which on it is clear."""
_FEWEST: Final = 4
_MOST: Final = 48
"""Batches before the first judgement and the last."""


def two_steps() -> FiniteProblem:
    """Return a problem in which every path has two steps of one id, at a temperature that is not 1."""
    table = {
        (): [Reply("think", "a", 0.5), Reply("think", "b", 0.3), Reply("think", "c", 0.2)],
        ("a",): [Reply("end", "one", 0.5), Reply("end", "two", 0.5)],
        ("b",): [Reply("end", "one", 0.3), Reply("end", "two", 0.7)],
        ("c",): [Reply("end", "one", 0.6), Reply("end", "two", 0.4)],
    }
    scores: dict[Path, float] = {
        ("a", "one"): 1.0, ("a", "two"): 0.0, ("b", "one"): 0.0, ("b", "two"): 1.0, ("c", "one"): 0.0,
        ("c", "two"): 0.25,
    }  # fmt: skip
    policy = FinitePolicy(GRAMMAR, table, SamplingParams(temperature=0.7))
    return FiniteProblem(policy, verdicts(scores))


def early_ends() -> FiniteProblem:
    """Return a problem whose paths have one step to four of one id: who counts long rollouts for more
    than short ones, or for less, goes another way."""
    table = {
        (): [Reply("think", "a", 0.5), Reply("end", "now", 0.5)],
        ("a",): [Reply("think", "b", 0.6), Reply("end", "one", 0.2), Reply("end", "two", 0.2)],
        ("a", "b"): [Reply("think", "c", 0.5), Reply("end", "one", 0.5)],
        ("a", "b", "c"): [Reply("end", "one", 0.5), Reply("end", "two", 0.5)],
    }
    scores: dict[Path, float] = {
        ("now",): 0.25, ("a", "one"): 1.0, ("a", "two"): 0.0, ("a", "b", "one"): 0.0,
        ("a", "b", "c", "one"): 1.0, ("a", "b", "c", "two"): 0.25,
    }  # fmt: skip
    return FiniteProblem(FinitePolicy(GRAMMAR, table), verdicts(scores))


@frozen(eq=False)
class Direction:
    """Where a learner's gradient points, over some batches of trees.

    Attributes:
        cosine: of the angle between minus its mean and the exact policy gradient.
        error: the standard error of the cosine, by the jackknife over batches.
        noise: the variance of the mean gradient, relative to its square.
        flipped: the cosine with the sign of the advantages flipped, in one batch.
        trees: how many.
    """

    cosine: float
    error: float
    noise: float
    flipped: float
    trees: int


def measure_direction(
    build: Build,
    finite: FiniteProblem,
    searcher: Searcher,
    *,
    budget: Budget,
    reward: Reward = outcome,
    seed: int = 0,
) -> Direction:
    """Compare a learner's gradient with the exact policy gradient of the expected reward.

    Batches of trees are searched until their mean gradient is known well enough, or there are
    enough of them.

    Args:
        build: makes the learner. Its reference is the policy itself, so that a penalty on the KL between
            the two has no gradient.
        finite: what is searched. Its policy must be a
            :class:`~rftt.testing.finite.model.FinitePolicy`.
        searcher: grows the trees.
        budget: of each tree.
        reward: of a verdict; what the learner is to raise.
        seed: decides the trees.
    """
    policy = finite.policy
    if not isinstance(policy, FinitePolicy):
        raise TypeError(f"finite: its policy is a {type(policy).__name__}; give a FinitePolicy")
    temperature = policy.sampling_params.temperature
    model = FiniteModel(policy, temperature).eval()
    exact = policy_gradient(model, finite, temperature, reward)
    torch.manual_seed(seed)
    learner = build(policy, FiniteModel(policy, temperature).eval().requires_grad_(False))
    gradients: list[Tensor] = []
    flipped = 0.0
    while True:
        config = SearchConfig(budget, seed=seed * _MOST + len(gradients))
        trees = run_search(finite.problems(_TREES), searcher, policy, finite.verifier, config)
        batch = learner.prepare(model, learner.experience(trees))
        if not gradients:
            against = attrs.evolve(batch, advantages=-batch.advantages)
            flipped = _cosine(-measure(learner, model, against).table.double(), exact)
        gradients.append(-measure(learner, model, batch).table.double())
        found = _direction(torch.stack(gradients), exact, flipped)
        is_clear = abs(found.cosine - COSINE) > _ERRORS * found.error and found.noise < _NOISE
        if len(gradients) == _MOST or (len(gradients) >= _FEWEST and is_clear):
            return found


def _direction(gradients: Tensor, exact: Tensor, flipped: float) -> Direction:
    total, number = gradients.sum(0), len(gradients)
    without = torch.tensor([_cosine(total - one, exact) for one in gradients])
    error = math.sqrt((number - 1) * float(without.var(correction=0)))
    noise = _noise(gradients)
    return Direction(_cosine(total, exact), error, noise, flipped, number * _TREES)


def check_direction(
    build: Build,
    problems: Mapping[str, FiniteProblem],
    searchers: Sequence[Searcher],
    budget: Budget,
    reward: Reward,
    seed: int,
) -> None:
    """Check that gradients point along the exact policy gradient."""
    for name, finite in problems.items():
        for searcher in searchers:
            found = measure_direction(build, finite, searcher, budget=budget, reward=reward, seed=seed)
            where = f"on {name}, over {found.trees} trees by {searcher}"
            if not found.cosine >= COSINE:
                raise DirectionBroken(
                    f"{where}: the cosine of the gradient with the exact policy gradient is "
                    f"{found.cosine:.4f} (standard error {found.error:.4f})"
                )
            if not found.flipped < 0:
                raise DirectionBroken(
                    f"{where}: with the sign of the advantages flipped the cosine is still "
                    f"{found.flipped:.4f}"
                )


def _cosine(found: Tensor, exact: Tensor) -> float:
    """Return the cosine of the angle between two gradients; 0 if one of them is 0."""
    norms = float(found.norm() * exact.norm())
    return float((found * exact).sum()) / norms if norms else 0.0


def _noise(gradients: Tensor) -> float:
    """Return the variance of the mean of some gradients, relative to the square of the mean."""
    square = float(gradients.mean(0).square().sum())
    if len(gradients) < 2 or not square:
        return math.inf
    return float(gradients.var(0).sum()) / len(gradients) / square
