"""pass@k, the vote of k and the best of k, against every choice of k samples, in rationals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt.evaluation.estimators import best_at_k, majority_at_k, pass_at_k

Sample = tuple[int | None, bool]
"""A group of answers or a score, and whether it is right."""

SAMPLES = st.lists(
    st.tuples(st.sampled_from([None, 0, 1, 2]), st.booleans()).map(
        lambda sample: (sample[0], sample[1] and sample[0] is not None)
    ),
    min_size=1,
    max_size=7,
)


@st.composite
def samples_and_k(draw: st.DrawFn) -> tuple[list[Sample], int]:
    samples = draw(SAMPLES)
    return samples, draw(st.integers(1, len(samples)))


def _mean(samples: Sequence[Sample], k: int, win: Callable[[Sequence[Sample]], Fraction]) -> Fraction:
    chosen = [win(subset) for subset in combinations(samples, k)]
    return sum(chosen, Fraction(0)) / len(chosen)


def _share_right(samples: Sequence[Sample]) -> Fraction:
    return Fraction(sum(right for _, right in samples), len(samples))


def _vote(samples: Sequence[Sample]) -> Fraction:
    sizes = {group: [g for g, _ in samples].count(group) for group, _ in samples if group is not None}
    winners = [group for group, size in sizes.items() if size == max(sizes.values())]
    shares = [_share_right([s for s in samples if s[0] == group]) for group in winners]
    return sum(shares, Fraction(0)) / len(shares) if shares else Fraction(0)


def _best(samples: Sequence[Sample]) -> Fraction:
    scores = [score for score, _ in samples if score is not None]
    return _share_right([s for s in samples if s[0] == max(scores)]) if scores else Fraction(0)


@given(samples_and_k())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(case: tuple[list[Sample], int]) -> None:
    samples, k = case
    expected = _mean(samples, k, lambda subset: Fraction(any(right for _, right in subset)))
    assert pass_at_k(len(samples), sum(right for _, right in samples), k) == float(expected)


@given(samples_and_k())
def test_best_at_k_is_the_mean_over_subsets(case: tuple[list[Sample], int]) -> None:
    samples, k = case
    assert best_at_k(samples, k) == float(_mean(samples, k, _best))


def _majority(samples: Sequence[Sample], k: int) -> float:
    groups = [
        [right for g, right in samples if g == group] for group in {g for g, _ in samples} - {None}
    ]
    sizes = [(len(group), sum(group) / len(group)) for group in groups]
    return majority_at_k(sizes, sum(g is None for g, _ in samples), k)


@given(samples_and_k())
def test_majority_at_k_is_the_mean_over_subsets(case: tuple[list[Sample], int]) -> None:
    samples, k = case
    # A group's right share within a subset is, over all subsets of a size, that of the whole group.
    assert _majority(samples, k) == pytest.approx(float(_mean(samples, k, _vote)), abs=2e-12)


@given(samples_and_k().filter(lambda case: len(case[0]) <= 5))
def test_equal_votes_are_split_as_they_are_by_the_first_found(case: tuple[list[Sample], int]) -> None:
    samples, k = case

    def first_of_the_largest(order: Sequence[Sample]) -> bool:
        votes = [group for group, _ in order if group is not None]
        winner = max(dict.fromkeys(votes), key=votes.count, default=None)
        return winner is not None and next(right for group, right in order if group == winner)

    marks = [first_of_the_largest(order) for order in permutations(samples, k)]
    assert _majority(samples, k) == pytest.approx(sum(marks) / len(marks), abs=2e-12)


@given(samples_and_k())
def test_one_sample_is_the_share_of_right_ones(case: tuple[list[Sample], int]) -> None:
    samples, _ = case
    share = float(_share_right(samples))
    assert pass_at_k(len(samples), sum(right for _, right in samples), 1) == share
    assert best_at_k(samples, 1) == share
    assert _majority(samples, 1) == pytest.approx(share, abs=2e-12)


def test_many_samples_neither_overflow_nor_lose_their_digits() -> None:
    # Two groups: the vote of 3 of n is right where two or three of them are.
    n, right = 4000, 2600
    two = Fraction(right * (right - 1) // 2 * (n - right), n * (n - 1) * (n - 2) // 6)
    three = Fraction(right * (right - 1) * (right - 2), n * (n - 1) * (n - 2))
    found = majority_at_k([(right, 1.0), (n - right, 0.0)], 0, 3)
    assert found == pytest.approx(float(two + three), rel=1e-9)
    assert majority_at_k([(26, 1.0)], 14, 40) == 1, "a certain vote"
    assert majority_at_k([(right, 1.0)], 0, 3) == 1, "and another"
    assert pass_at_k(n, 1, 1000) == 0.25
    assert majority_at_k([(150, 1.0), (150, 0.0)], 1000, 1300) == pytest.approx(0.5)


@pytest.mark.parametrize("k", [0, 4])
def test_k_is_of_the_samples_there_are(k: int) -> None:
    for call in (
        lambda: pass_at_k(3, 1, k),
        lambda: best_at_k([(1.0, True)] * 3, k),
        lambda: majority_at_k([(2, 1.0)], 1, k),
    ):
        with pytest.raises(ValueError, match="3 samples: choose k from 1 to 3"):
            call()
    with pytest.raises(ValueError, match="4 right samples of 3"):
        pass_at_k(3, 4, 1)
