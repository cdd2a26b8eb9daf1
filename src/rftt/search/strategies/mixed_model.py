"""AB-MCTS-M: wider or deeper by a mixed model of the scores below each child."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import Final, TypeAlias

import numpy as np
from attrs import field, frozen, validators

from rftt.search.strategies.ab_mcts import BranchingRule, Options, Scores

Array: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]

_POINTS: Final = 40
_SMALLEST: Final = 0.01
_WIDEST: Final = 4.0


@frozen
class MixedModel(BranchingRule):
    """AB-MCTS-M: each child is a group of a random-intercepts model (arXiv 2503.04412).

    A score below child ``j`` is ``y = alpha_j + sigma_y * noise`` and ``alpha_j = mu + sigma_alpha *
    noise``; ``mu`` is normal beforehand, both deviations half-normal. For each open child a score
    is drawn from the posterior predictive distribution of its group, for a new child from that of a
    group without scores, and the largest is taken. Names and defaults are treequest's, which samples the
    posterior by MCMC. Here it is computed, by :func:`posterior`.

    Attributes:
        mean: of the prior of ``mu``.
        mean_deviation: of the prior of ``mu``.
        alpha_scale: of the half-normal prior of ``sigma_alpha``.
        y_scale: of the half-normal prior of ``sigma_y``.
    """

    mean: float = 0.5
    mean_deviation: float = field(default=0.2, validator=validators.gt(0))
    alpha_scale: float = field(default=0.2, validator=validators.gt(_SMALLEST))
    y_scale: float = field(default=0.3, validator=validators.gt(_SMALLEST))

    def choose(self, options: Options, rng: Random) -> int | None:
        belief = posterior(self, options.children, options.ended)
        new = belief.draw(Scores(), rng)
        draws = [belief.draw(scores, rng) for scores in options.children]
        return draws.index(max(draws)) if max(draws) > new else None


@frozen
class Posterior:
    """What scores say of a mixed model, at each point of a grid of its two deviations: ``[points]``.

    Attributes:
        sigma_alpha, sigma_y: the deviations at the point.
        passed: the sum of the probabilities of the points up to this one.
        mu_mean, mu_deviation: of the normal distribution of ``mu`` at the point.
    """

    sigma_alpha: Array
    sigma_y: Array
    passed: Array
    mu_mean: Array
    mu_deviation: Array

    def draw(self, group: Scores, rng: Random) -> float:
        """Draw the next score of a group; of a new group if it has no scores."""
        at = np.searchsorted(self.passed[:-1], rng.random() * self.passed[-1], side="right")
        sigma_alpha, sigma_y = float(self.sigma_alpha[at]), float(self.sigma_y[at])
        mu = rng.normalvariate(float(self.mu_mean[at]), float(self.mu_deviation[at]))
        from_mu, from_scores = sigma_alpha**-2, sigma_y**-2
        precision = from_mu + group.count * from_scores
        centre = (mu * from_mu + group.total * from_scores) / precision
        return rng.normalvariate(rng.normalvariate(centre, precision**-0.5), sigma_y)


def posterior(model: MixedModel, groups: Sequence[Scores], singles: Scores) -> Posterior:
    """Return the posterior of a model after the scores of its groups.

    Given both deviations the model is normal, and so is the posterior of ``mu``, with a marginal
    likelihood in closed form: the mean of ``n`` scores of a group is normal around ``mu`` with variance
    ``sigma_alpha ** 2 + sigma_y ** 2 / n``, and independent of their spread. The deviations have a grid
    of 40 by 40 values, from 0.01 up to four times the scale of the prior, at even ratios. They begin
    at 0.01 because the posterior of equal scores would have all its mass at 0.

    Args:
        model: the priors.
        groups: the scores of each group.
        singles: more scores, each of a group of its own.
    """
    alpha, y, log_prior = _grid(model.alpha_scale, model.y_scale)
    alpha_variance, y_variance = alpha**2, y**2
    # Groups of one size share a variance, so the moments of their means are enough.
    means: dict[int, list[float]] = {}
    if singles.count:
        means[1] = [singles.count, singles.total, singles.squares]
    spread, freedom = 0.0, 0
    for group in groups:
        if group.count:
            mean = group.total / group.count
            moments = means.setdefault(group.count, [0, 0.0, 0.0])
            moments[:] = moments[0] + 1, moments[1] + mean, moments[2] + mean**2
            # Rounding can leave a spread just below zero.
            spread += max(0.0, group.squares - group.total * mean)
            freedom += group.count - 1
    log_weight = log_prior - freedom * np.log(y) - spread / (2 * y_variance)
    precision = np.full_like(alpha, model.mean_deviation**-2)
    weighted = model.mean * precision
    squares = model.mean**2 * precision
    for size, (number, total, square) in means.items():
        variance = alpha_variance + y_variance / size
        log_weight -= number * np.log(variance) / 2
        precision += number / variance
        weighted += total / variance
        squares += square / variance
    mu = weighted / precision
    log_weight -= (np.log(precision) + squares - weighted * mu) / 2
    passed = np.cumsum(np.exp(log_weight - log_weight.max()))
    return Posterior(alpha, y, passed, mu_mean=mu, mu_deviation=precision**-0.5)


@lru_cache(maxsize=8)
def _grid(alpha_scale: float, y_scale: float) -> tuple[Array, Array, Array]:
    """Return both deviations and the logarithm of their prior at each point of the grid."""
    ratios = np.linspace(0.0, 1.0, _POINTS)
    alphas = _SMALLEST * (_WIDEST * alpha_scale / _SMALLEST) ** ratios
    ys = _SMALLEST * (_WIDEST * y_scale / _SMALLEST) ** ratios
    alpha, y = np.tile(alphas, _POINTS), np.repeat(ys, _POINTS)
    half_normal = -((alpha / alpha_scale) ** 2 + (y / y_scale) ** 2) / 2
    # A cell of the grid is as wide as its deviation is large.
    return alpha, y, half_normal + np.log(alpha) + np.log(y)
