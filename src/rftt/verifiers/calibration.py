"""Scores that are probabilities: a calibration fitted on states of which it is known which are right."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from attrs import define, field, frozen

from rftt.interfaces import State, Verdict, Verifier

_log: Final = logging.getLogger(__name__)

Calibration = Callable[[float], float]
"""Makes a probability of a score."""


@frozen
class Platt:
    """A logistic curve through scores: ``1 / (1 + exp(-(slope * score + intercept)))`` (Platt, 1999)."""

    slope: float
    intercept: float

    def __call__(self, score: float) -> float:
        # Of the two forms the one whose exponential cannot overflow.
        x = self.slope * score + self.intercept
        return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


@frozen
class Isotonic:
    """A curve that never falls, linear between ``scores`` and flat beyond them.

    Attributes:
        scores: distinct, in rising order.
        probabilities: one for each.
    """

    scores: tuple[float, ...] = field(converter=tuple[float, ...])
    probabilities: tuple[float, ...] = field(converter=tuple[float, ...])

    def __call__(self, score: float) -> float:
        return float(np.interp(score, self.scores, self.probabilities))


def fit_platt(scores: Sequence[float], labels: Sequence[bool]) -> Platt:
    """Fit a logistic curve by maximum likelihood, with Platt's targets.

    They are ``(n + 1) / (n + 2)`` for n right states and ``1 / (n + 2)`` for n wrong ones, so that a few
    clear scores are not taken for certain.

    Args:
        scores: at least one of a right and one of a wrong state.
        labels: which states are right.

    Raises:
        ValueError: if there are no right or no wrong ones.
    """
    right, wrong = _counted(scores, labels)
    targets = np.where(np.asarray(labels, dtype=bool), (right + 1) / (right + 2), 1 / (wrong + 2))
    inputs = np.stack([np.asarray(scores, dtype=float), np.ones(len(scores))], axis=1)

    def loss(weights: np.ndarray) -> float:
        x = inputs @ weights
        return float((np.logaddexp(0, x) - targets * x).sum())

    weights = np.array([0.0, math.log((right + 1) / (wrong + 1))])
    for _ in range(100):
        probabilities = 1 / (1 + np.exp(-(inputs @ weights)))
        gradient = inputs.T @ (probabilities - targets)
        curvature = (inputs * (probabilities * (1 - probabilities))[:, None]).T @ inputs
        # Equal scores leave the slope open; the smallest step leaves it at 0.
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        size = 1.0
        while size > 1e-10 and loss(weights - size * step) > loss(weights):
            size /= 2
        weights = weights - size * step
        if np.abs(step).max() < 1e-10:
            break
    return Platt(float(weights[0]), float(weights[1]))


def fit_isotonic(scores: Sequence[float], labels: Sequence[bool]) -> Isotonic:
    """Fit the rising curve of least squares by pooling adjacent violators (Zadrozny and Elkan, 2002).

    It needs more states than :func:`fit_platt`, and no shape of the curve.

    Args:
        scores: at least one of a right and one of a wrong state.
        labels: which states are right.

    Raises:
        ValueError: if there are no right or no wrong ones.
    """
    _counted(scores, labels)
    distinct, places = np.unique(np.asarray(scores, dtype=float), return_inverse=True)
    counts = np.bincount(places)
    right = np.bincount(places, weights=np.asarray(labels, dtype=float))
    pools: list[tuple[float, int, int]] = []
    for hits, count in zip(right.tolist(), counts.tolist(), strict=True):
        pools.append((hits, count, 1))
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] >= pools[-1][0] * pools[-2][1]:
            hits_after, count_after, width_after = pools.pop()
            hits_before, count_before, width_before = pools.pop()
            pools.append(
                (hits_before + hits_after, count_before + count_after, width_before + width_after)
            )
    probabilities = [hits / count for hits, count, width in pools for _ in range(width)]
    return Isotonic(distinct.tolist(), probabilities)


@define(eq=False)
class Calibrated(Verifier):
    """Another verifier, whose scores a calibration makes probabilities of. Step scores stay as they are.

    Attributes:
        verifier: judges.
        calibration: is given every score; an abstention stays one.
    """

    verifier: Verifier
    calibration: Calibration

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [
            verdict
            if verdict.score is None
            else Verdict(
                self.calibration(verdict.score), verdict.answer, verdict.reason, verdict.step_scores
            )
            for verdict in self.verifier.judge(states)
        ]

    def equivalent(self, a: str, b: str) -> bool | None:
        return self.verifier.equivalent(a, b)


def calibrate(
    verifier: Verifier,
    states: Sequence[State],
    labels: Sequence[bool],
    fit: Callable[[Sequence[float], Sequence[bool]], Calibration] = fit_platt,
) -> Calibrated:
    """Return a verifier whose scores are probabilities of being right.

    States from which the verifier abstains are left out, and the log says how many.

    Args:
        verifier: gives the scores.
        states: of other problems than those that are judged later.
        labels: which of the states are right.
        fit: :func:`fit_platt` or :func:`fit_isotonic`.

    Raises:
        ValueError: if there are no right or no wrong ones among the states that have a score.
    """
    verdicts = verifier.judge(states)
    scored = [
        (verdict.score, label)
        for verdict, label in zip(verdicts, labels, strict=True)
        if verdict.score is not None
    ]
    if len(scored) < len(verdicts):
        _log.warning(
            "calibration: %s abstained from %d of %d states, which are left out",
            type(verifier).__name__, len(verdicts) - len(scored), len(verdicts),
        )  # fmt: skip
    return Calibrated(verifier, fit([score for score, _ in scored], [label for _, label in scored]))


def _counted(scores: Sequence[float], labels: Sequence[bool]) -> tuple[int, int]:
    if len(scores) != len(labels):
        raise ValueError(f"{len(scores)} scores and {len(labels)} labels; give one label a score")
    right = sum(map(bool, labels))
    if not 0 < right < len(labels):
        raise ValueError(
            f"{right} of {len(labels)} states with a score are right; a calibration needs right ones "
            "and wrong ones"
        )
    return right, len(labels) - right
