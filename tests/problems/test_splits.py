"""A problem's part of a split depends on its own question alone."""

from __future__ import annotations

import hashlib
import logging
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import Problem
from rftt.problems.splits import hold_out_every, split_problems

THIRDS = {"train": 0.5, "validation": 0.2, "test": 0.3}

problem_lists = st.lists(
    st.text(max_size=8).filter(lambda text: text.strip()), max_size=20, unique=True
).map(lambda texts: [Problem(f"p{i}", text) for i, text in enumerate(texts)])


def _parts(problems: list[Problem], seed: int = 0) -> dict[str, str]:
    split = split_problems(problems, THIRDS, seed=seed)
    return {problem.question: name for name, part in split.items() for problem in part}


@given(problem_lists, st.integers(0, 5), st.integers(0, 100))
def test_order_ids_and_other_problems_have_no_influence(
    problems: list[Problem], seed: int, shuffle: int
) -> None:
    parts = _parts(problems, seed)
    assert parts.keys() == {problem.question for problem in problems}
    others = [Problem(f"other{i}", f"another question {i}") for i in range(3)]
    renamed = [Problem(f"x{i}", problem.question) for i, problem in enumerate(problems)]
    Random(shuffle).shuffle(renamed)
    assert parts.items() <= _parts(renamed + others, seed).items()


@given(problem_lists, st.integers(0, 5))
def test_each_problem_is_in_one_part_in_the_order_given(problems: list[Problem], seed: int) -> None:
    split = split_problems(problems, THIRDS, seed=seed)
    assert sorted(p.id for part in split.values() for p in part) == sorted(p.id for p in problems)
    place = {problem.id: i for i, problem in enumerate(problems)}
    for part in split.values():
        assert [place[p.id] for p in part] == sorted(place[p.id] for p in part)


def test_the_part_is_the_one_that_the_hash_names() -> None:
    for i in range(200):
        text = f"what is {i}?"
        digest = hashlib.sha256(f"3/{text}".encode()).hexdigest()
        share = int(digest[:16], 16) / 2**64
        expected = "train" if share < 0.5 else "validation" if share < 0.7 else "test"
        assert _parts([Problem("p", f"  What  is\n{i}? ")], seed=3) == {f"  What  is\n{i}? ": expected}


def test_the_shares_are_met_and_seeds_differ() -> None:
    problems = [Problem(str(i), f"question {i}") for i in range(20_000)]
    split = split_problems(problems, THIRDS)
    for name, fraction in THIRDS.items():
        # Five standard deviations of a binomial's share.
        assert abs(len(split[name]) / 20_000 - fraction) < 5 * (0.25 / 20_000) ** 0.5
    other = split_problems(problems, THIRDS, seed=1)
    both = {p.id for p in split["train"]} & {p.id for p in other["train"]}
    assert abs(len(both) / 20_000 - 0.25) < 5 * (0.25 / 20_000) ** 0.5


def test_an_empty_part_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        split_problems([Problem("p", "q")], {"train": 0.5, "test": 0.5})
    assert "split of 1 problems: none is in" in caplog.text


@pytest.mark.parametrize(
    "fractions", [{}, {"a": 0.5}, {"a": 0.5, "b": 0.6}, {"a": 1.0, "b": 0.0}, {"a": 1.5, "b": -0.5},
                  {"a": float("nan"), "b": 1.0}],
)  # fmt: skip
def test_fractions_that_are_none_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="fraction"):
        split_problems([Problem("p", "q")], fractions)


@given(problem_lists, st.integers(2, 6))
def test_every_nth_is_held_out(problems: list[Problem], n: int) -> None:
    train, heldout = hold_out_every(problems, n)
    assert heldout == [problem for i, problem in enumerate(problems) if i % n == 0]
    assert train == [problem for i, problem in enumerate(problems) if i % n != 0]


def test_holding_out_all_is_refused() -> None:
    with pytest.raises(ValueError, match="n must be 2 or more, not 1"):
        hold_out_every([], 1)
