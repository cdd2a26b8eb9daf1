"""One score of the scores of steps."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt.aggregation import last, mean, minimum, product

_SCORES = st.lists(st.fractions(0, 1, max_denominator=64), min_size=1, max_size=8)
"""Numbers of which sums and products are exact."""


@given(_SCORES)
def test_each_is_what_its_name_says(exact: list[Fraction]) -> None:
    scores = [float(score) for score in exact]
    assert last(scores) == scores[-1]
    assert minimum(scores) == sorted(scores)[0]
    assert mean(scores) == pytest.approx(float(sum(exact) / len(exact)), rel=1e-12)
    expected = Fraction(1)
    for score in exact:
        expected *= score
    assert product(scores) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("aggregation", [last, minimum, product, mean])
def test_nothing_and_what_is_not_finite_are_refused(aggregation: object) -> None:
    assert callable(aggregation)
    with pytest.raises(ValueError, match="no step score"):
        aggregation([])
    for wrong in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="step 1 of 3"):
            aggregation([0.5, wrong, 0.25])
