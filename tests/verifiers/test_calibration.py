"""Calibrations are the best of their kind, and leave abstentions alone."""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import State, Verdict, Verifier
from rftt.fingerprint import difference, fingerprint
from rftt.verifiers.calibration import (
    Calibrated,
    Isotonic,
    Platt,
    calibrate,
    fit_isotonic,
    fit_platt,
)
from tests.verifiers.reward_models import state

_PAIRS = st.lists(st.tuples(st.integers(0, 8).map(lambda n: n / 8), st.booleans()), max_size=14).map(
    lambda pairs: [*pairs, (0.25, False), (0.75, True)]
)


def _loss(curve: Platt, pairs: Sequence[tuple[float, bool]]) -> float:
    """Platt's: cross entropy with targets of (n + 1) / (n + 2) and 1 / (n + 2)."""
    right = sum(label for _, label in pairs)
    wrong = len(pairs) - right
    total = 0.0
    for score, label in pairs:
        target = (right + 1) / (right + 2) if label else 1 / (wrong + 2)
        p = curve(score)
        total -= target * math.log(p) + (1 - target) * math.log1p(-p)
    return total


@given(_PAIRS)
def test_no_logistic_curve_nearby_is_better(pairs: list[tuple[float, bool]]) -> None:
    curve = fit_platt([score for score, _ in pairs], [label for _, label in pairs])
    best = _loss(curve, pairs)
    for slope in (-0.05, 0.0, 0.05):
        for intercept in (-0.05, 0.0, 0.05):
            other = Platt(curve.slope + slope, curve.intercept + intercept)
            assert _loss(other, pairs) >= best - 1e-9


def test_a_logistic_curve_by_hand() -> None:
    # Two scores, two rates: the curve goes through both. 4 right and 4 wrong, targets 5/6 and 1/6.
    curve = fit_platt([0.0] * 4 + [1.0] * 4, [True, False, False, False, True, True, True, False])
    low, high = (5 / 6 + 3 / 6) / 4, (3 * 5 / 6 + 1 / 6) / 4
    assert curve(0.0) == pytest.approx(low)
    assert curve(1.0) == pytest.approx(high)
    # Equal scores say nothing: the rate of the targets, 3 right of 4.
    flat = fit_platt([0.5] * 4, [True, True, True, False])
    assert flat(0.5) == pytest.approx((3 * 4 / 5 + 1 / 3) / 4)
    # Scores far apart and perfectly told apart.
    assert fit_platt([-900.0, 900.0], [False, True])(900.0) == pytest.approx(2 / 3)
    assert Platt(1.0, 0.0)(-1e6) == 0.0
    assert Platt(1.0, 0.0)(1e6) == 1.0


@given(_PAIRS)
def test_the_rising_curve_is_the_max_min_of_means(pairs: list[tuple[float, bool]]) -> None:
    curve = fit_isotonic([score for score, _ in pairs], [label for _, label in pairs])
    distinct = sorted({score for score, _ in pairs})
    for place, score in enumerate(distinct):
        expected = max(
            min(
                float(np.mean([label for s, label in pairs if distinct[a] <= s <= distinct[b]]))
                for b in range(place, len(distinct))
            )
            for a in range(place + 1)
        )
        assert curve(score) == pytest.approx(expected)


def test_between_and_beyond() -> None:
    curve = Isotonic((0.0, 1.0), (0.25, 0.75))
    assert [curve(x) for x in (-1.0, 0.0, 0.5, 1.0, 2.0)] == [0.25, 0.25, 0.5, 0.75, 0.75]


class _ByLength(Verifier):
    """Scores a solution by its number of steps, and abstains from none."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [
            Verdict(float(len(s.steps)) if s.steps else None, "7", "why", tuple([1.0] * len(s.steps)))
            for s in states
        ]

    def equivalent(self, a: str, b: str) -> bool | None:
        return None


@pytest.mark.parametrize("fit", [fit_platt, fit_isotonic])
def test_a_calibrated_verifier(fit: object, caplog: pytest.LogCaptureFixture) -> None:
    assert callable(fit)
    states = [state(["1"] * n) for n in (1, 1, 1, 1, 2, 2, 2, 2, 0)]
    labels = [True, False, False, False, True, True, True, False, True]
    verifier = calibrate(_ByLength(), states, labels, fit)
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        "calibration: _ByLength abstained from 1 of 9 states, which are left out"
    ]
    one, two, none = verifier.judge([state(["1"]), state(["1", "1"]), state([])])
    expected = {fit_platt: (1 / 3, 2 / 3), fit_isotonic: (1 / 4, 3 / 4)}[fit]  # type: ignore[index]
    assert (one.score, two.score) == pytest.approx(expected)
    assert (two.answer, two.reason, two.step_scores) == ("7", "why", (1.0, 1.0))
    assert none.score is None
    assert verifier.equivalent("1", "1") is None
    again = pickle.loads(pickle.dumps(verifier))
    assert again.judge(states) == verifier.judge(states)
    assert difference(fingerprint(verifier), fingerprint(again)) is None
    other = Calibrated(_ByLength(), Platt(9.0, 9.0))
    assert "calibration" in (difference(fingerprint(verifier), fingerprint(other)) or "")


@pytest.mark.parametrize("fit", [fit_platt, fit_isotonic])
def test_what_cannot_be_fitted_is_refused(fit: object) -> None:
    assert callable(fit)
    for labels in ([True, True], [False, False]):
        with pytest.raises(ValueError, match="needs right ones and wrong ones"):
            fit([0.1, 0.2], labels)
    with pytest.raises(ValueError, match="2 scores and 1 labels"):
        fit([0.1, 0.2], [True])
    with pytest.raises(ValueError, match="needs right ones"):
        fit([], [])
