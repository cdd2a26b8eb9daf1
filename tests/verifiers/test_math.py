"""Answers: what is equal, what is not, what takes too long."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import MathVerifier, Problem, Segment, Solution, Verdict
from rftt.verifiers.math import boxed

VERIFIER = MathVerifier(seconds=20)


def _judge(text: str, gold: str | None, verifier: MathVerifier = VERIFIER) -> Verdict:
    solution = Solution([Segment("output", text, (), (), (), is_final=True)])
    return verifier.judge(Problem("p", "?", gold), [solution])[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so \\boxed{12}", "12"),
        ("\\boxed{1} no, \\boxed{ 2 }", "2"),
        ("\\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{3} and \\boxed{4", "3"),
        ("\\boxed{}", None),
        ("12", None),
    ],
)
def test_boxed(text: str, expected: str | None) -> None:
    assert boxed(text) == expected


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_whole_numbers(gold: int, answer: int) -> None:
    assert _judge(f"\\boxed{{{answer}}}", str(gold)).score == float(gold == answer)


@pytest.mark.parametrize(
    ("gold", "answer", "score"),
    [
        ("1/2", "0.5", 1.0),
        ("\\frac{3}{4}", "0.75", 1.0),
        ("x+1", "1+x", 1.0),
        ("1,234", "1234", 1.0),
        ("469", "469.0", 1.0),
        ("2", "3", 0.0),
        ("x+1", "x-1", 0.0),
    ],
)
def test_equal_by_the_rules_of_mathematics(gold: str, answer: str, score: float) -> None:
    assert _judge(f"\\boxed{{{answer}}}", gold).score == score


def test_equal_answers_have_equal_text() -> None:
    answers = ["0.5", "\\frac{1}{2}", "1/2", "\\frac{2}{4}"]
    assert len({_judge(f"\\boxed{{{a}}}", None).answer for a in answers}) == 1


def test_no_answer_scores_0_and_no_gold_abstains() -> None:
    assert _judge("forty-two", "42").score == 0.0
    assert _judge("forty-two", None).score is None
    assert _judge("\\boxed{42}", None) == Verdict(None, "42")


def test_a_tower_of_powers_does_not_hang_and_the_next_answer_is_judged() -> None:
    verifier = MathVerifier(seconds=1.0)
    verifier.compare("x", "y")  # starts the worker
    start = time.monotonic()
    verdict = _judge("\\boxed{9^{9^{9^9}}}", "5", verifier)
    assert verdict.score is None
    assert "within 1 s" in verdict.reason
    assert time.monotonic() - start < 5
    assert _judge("\\boxed{\\frac{1}{3}}", "1/3", MathVerifier(seconds=20)).score == 1.0
    verifier.close()


def test_it_works_in_a_thread() -> None:
    found: list[float | None] = []
    thread = threading.Thread(
        target=lambda: found.append(_judge("\\boxed{2x}", "x+x", MathVerifier(seconds=20)).score)
    )
    thread.start()
    thread.join()
    assert found == [1.0]
