"""Intervals and paired tests, against known values and by how often they are right."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt.evaluation.estimators import pass_at_k
from rftt.evaluation.intervals import bootstrap_interval, estimate, wilson
from rftt.evaluation.paired import mcnemar, newcombe, paired_difference, sign_flip


def test_the_interval_is_wilsons() -> None:
    # Wilson (1927) for 8 of 10 at 95%: 0.490162 to 0.943318, as in Newcombe (1998), method 3.
    assert wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-5)
    found = estimate([1.0] * 8 + [0.0] * 2)
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.490162, 0.943318), abs=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_equal_shares_have_an_interval_all_the_same(share: float) -> None:
    found = estimate([share] * 20)
    assert (found.low, found.high) == wilson(20 * share, 20)


def test_a_bootstrap_has_its_seed_and_covers_the_truth() -> None:
    # pass@2 of 4 samples, of problems whose chances are uniform: E[1 - (1-p)^2] = 2/3.
    rng = Random(1)
    covered = 0
    for trial in range(100):
        chances = [rng.random() for _ in range(60)]
        right = [sum(rng.random() < chance for _ in range(4)) for chance in chances]
        found = estimate([pass_at_k(4, count, 2) for count in right], seed=trial)
        covered += found.low <= 2 / 3 <= found.high
    # 95 are expected; a binomial of a true 90% or 99% is outside of 88 to 100 in 2 of 10 and 0.
    assert 88 <= covered <= 99
    values = [0.1, 0.4, 0.4, 1.0]
    assert bootstrap_interval(values, 3) == bootstrap_interval(values, 3)
    # The 256 equally likely means of 4 problems, by enumeration.
    means = sorted(sum(sample) / 4 for sample in product(values, repeat=4))
    assert bootstrap_interval(values, 0) == pytest.approx((means[6], means[249]), abs=0.03)


def test_few_wrong_ones_are_not_taken_for_certainty() -> None:
    # 40 problems, 16 samples: 0.3 problems' worth of wrong says little about the next problem.
    found = estimate([1.0] * 38 + [0.9, 0.8])
    assert (found.low, found.high) == pytest.approx(wilson(39.7, 40))


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        estimate([])


@pytest.mark.parametrize(
    ("first_only", "second_only", "p_value"),
    # Tails of a binomial with probability 1/2: 2 * (1 + 12 + 66) / 4096, 2 / 32, 2 * 1 / 2, and the
    # example of statsmodels' mcnemar([[101, 121], [59, 33]]), with exact=True.
    [(10, 2, 158 / 4096), (0, 5, 2 / 32), (1, 0, 1.0), (3, 3, 1.0), (0, 0, 1.0), (121, 59, 4.43445e-6)],
)
def test_mcnemars_test_is_exact(first_only: int, second_only: int, p_value: float) -> None:
    assert mcnemar(first_only, second_only) == pytest.approx(p_value, rel=1e-5)
    assert mcnemar(second_only, first_only) == mcnemar(first_only, second_only)


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=8))
def test_sign_flips_come_to_the_share_of_all_of_them(differences: list[float]) -> None:
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((-1, 1), repeat=len(differences))
    ]
    exact = sum(total >= abs(sum(differences)) for total in sums) / len(sums)
    # Four standard deviations of 10,000 draws, at most.
    assert sign_flip(differences) == pytest.approx(exact, abs=0.02)


def test_marks_are_compared_by_mcnemar() -> None:
    first = [1.0] * 10 + [0.0] * 2 + [1.0] * 30 + [0.0] * 8
    second = [0.0] * 10 + [1.0] * 2 + [1.0] * 30 + [0.0] * 8
    found = paired_difference(first, second)
    assert found.value == pytest.approx(-8 / 50)
    assert found.low < -8 / 50 < found.high
    assert (found.first_better, found.second_better) == (10, 2)
    assert (found.p_value, found.test) == (pytest.approx(158 / 4096), "McNemar, exact")


def test_shares_are_compared_by_sign_flips() -> None:
    found = paired_difference([0.25, 0.5, 0.0], [0.5, 0.75, 0.25])
    assert found.p_value == pytest.approx(2 / 8, abs=0.02)
    assert found.test == "sign flips, 10000 draws"


def test_no_difference_has_an_interval_all_the_same() -> None:
    shares = [0.5, 0.0] * 10
    found = paired_difference(shares, shares)
    _, reach = wilson(0, 20)
    assert (found.value, found.low, found.high) == (0, -reach, reach)
    assert found.p_value == 1
    marks = [1.0, 0.0] * 10
    assert paired_difference(marks, marks).high > 0


def test_the_problems_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="2 and 1 shares"):
        paired_difference([1.0, 0.0], [1.0])


def test_the_interval_of_a_difference_is_newcombes() -> None:
    # Newcombe (1998), method 10, for 36 both, 12 and 2 only one of them, 0 neither: 0.0569 to 0.3404.
    assert newcombe(36, 12, 2, 50) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@given(st.lists(st.integers(0, 30), min_size=4, max_size=4).filter(any))
def test_a_difference_turned_round_is_its_negative(counts: list[int]) -> None:
    both, first, second, _ = counts
    low, high = newcombe(both, first, second, sum(counts))
    difference = (first - second) / sum(counts)
    assert -1 <= low <= difference <= high <= 1
    assert high - low > 0.01, "never without a width"
    assert newcombe(both, second, first, sum(counts)) == pytest.approx((-high, -low))
