"""Rules and formulas of the strategies, against values derived by other means."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt.search.strategies.best_of_n import majority_confidence
from rftt.search.strategies.gumbel import considered_visits
from rftt.search.strategies.levels.particles import identity, log_odds, particle_weights, systematic
from rftt.search.strategies.schedules import Exponential, Linear, Widening
from rftt.search.strategies.selection import puct, qtransform_by_parent_and_siblings, qtransform_identity


@pytest.mark.parametrize(
    ("value", "visits", "parent", "prior", "c", "expected"),
    [
        # 0.5 + 1.25 * 0.4 * sqrt(16) / (1 + 3) = 0.5 + 0.5
        (0.5, 3, 16, 0.4, 1.25, 1.0),
        # an unvisited option: 0 + 2 * 0.5 * sqrt(9) / 1
        (0.0, 0, 9, 0.5, 2.0, 3.0),
        # no visit of the parent yet: the prior alone decides
        (0.0, 0, 0, 0.3, 1.0, 0.3),
    ],
)
def test_puct(value: float, visits: int, parent: int, prior: float, c: float, expected: float) -> None:
    assert puct([value], [visits], parent, [prior], c) == [pytest.approx(expected, abs=1e-12)]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_qtransforms(values: list[float]) -> None:
    low, high = min(values), max(values)
    assert qtransform_identity(values, low) == values
    scaled = qtransform_by_parent_and_siblings(values, values[0])
    assert all(0 <= value <= 1 for value in scaled)
    assert {0.0, 1.0} <= set(scaled) if low < high else set(scaled) == {0.0}
    assert [scaled[i] for i in sorted(range(len(values)), key=values.__getitem__)] == sorted(scaled)
    # From 2 to 10: 4 lies a quarter of the way. The parent, 2, is the least.
    assert qtransform_by_parent_and_siblings([4.0, 10.0], 2.0) == [0.25, 1.0]


def test_schedules_and_widening() -> None:
    assert [Linear(3.0, 1.0, 4)(n) for n in (0, 1, 2, 4, 9)] == [3.0, 2.5, 2.0, 1.0, 1.0]
    halves = Exponential(4.0, 1.0, 2)
    assert [halves(n) for n in (0, 1, 2, 7)] == pytest.approx([4.0, 2.0, 1.0, 1.0])
    assert [Widening(1.0, 0.5)(n) for n in (0, 1, 3, 4, 9, 24)] == [1, 1, 1, 2, 3, 4]


def _integral(first: int, second: int, low: Fraction) -> Fraction:
    """Integrate ``p**first * (1 - p)**second`` from ``low`` to 1, exactly: expanded, term by term."""
    terms = [(math.comb(second, k) * (-1) ** k, first + k + 1) for k in range(second + 1)]
    return sum((factor * (1 - low**power) / power for factor, power in terms), Fraction(0))


def test_majority_confidence_is_the_mass_of_a_beta_above_one_half() -> None:
    for first, second in itertools.product(range(13), repeat=2):
        share = _integral(first, second, Fraction(1, 2)) / _integral(first, second, Fraction(0))
        assert majority_confidence(first, second) == pytest.approx(float(share), abs=1e-12)


def test_considered_visits() -> None:
    # Four actions, 16 simulations, two phases of eight: 2 visits for each of 4, then 4 for each of 2.
    assert considered_visits(4, 16) == [0] * 4 + [1] * 4 + [2] * 2 + [3] * 2 + [4] * 2 + [5] * 2
    assert considered_visits(1, 3) == [0, 1, 2]
    assert considered_visits(8, 5) == [0] * 5


@given(st.integers(1, 16), st.integers(1, 64))
def test_considered_visits_can_be_followed(actions: int, simulations: int) -> None:
    """There is always an action with as many visits as the plan wants."""
    visits = Counter(dict.fromkeys(range(actions), 0))
    plan = considered_visits(actions, simulations)
    assert len(plan) == simulations
    for wanted in plan:
        chosen = next(a for a in visits if visits[a] == wanted)
        visits[chosen] += 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 12), st.integers(0, 99))
def test_systematic_resampling_is_fair_to_within_one(weights: list[int], count: int, seed: int) -> None:
    drawn = Counter(systematic(range(len(weights)), weights, count, Random(seed)))
    assert drawn.total() == count
    for item, weight in enumerate(weights):
        share = Fraction(count * weight, sum(weights))
        assert math.floor(share) <= drawn[item] <= math.floor(share) + 1


def test_the_weights_of_particles_are_the_odds_of_their_scores() -> None:
    # Odds of 9 and 1/9.
    assert particle_weights([0.9, 0.1]) == pytest.approx([81 / 82, 1 / 82])
    # Their square roots, 3 and 1/3.
    assert particle_weights([0.9, 0.1], temperature=2.0) == pytest.approx([9 / 10, 1 / 10])
    # Of log-probabilities, the probabilities.
    logs = [math.log(0.6), math.log(0.2)]
    assert particle_weights(logs, identity) == pytest.approx([3 / 4, 1 / 4])
    # Without a score there is no weight, unless nothing has one.
    assert particle_weights([0.5, -math.inf, 0.5]) == pytest.approx([0.5, 0.0, 0.5])
    assert particle_weights([-math.inf, -math.inf]) == [0.5, 0.5]


def test_log_odds_are_finite_at_both_ends_and_refused_beyond() -> None:
    assert log_odds(0.0) == pytest.approx(-log_odds(1.0))
    assert log_odds(1.0) == pytest.approx(math.log(1e7), rel=1e-6)
    for score in (-0.1, 1.5, math.inf):
        with pytest.raises(ValueError, match=rf"score {score} is not in \[0, 1\]; give .* identity"):
            log_odds(score)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0.1, 10))
def test_particle_weights_sum_to_one_in_the_order_of_the_scores(
    scores: list[float], temperature: float
) -> None:
    weights = particle_weights(scores, temperature=temperature)
    assert math.isclose(sum(weights), 1)
    order = sorted(range(len(scores)), key=scores.__getitem__)
    assert [weights[i] for i in order] == sorted(weights)
