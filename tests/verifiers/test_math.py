"""Answers: what is equal, what is not, what takes too long."""

from __future__ import annotations

import copy
import logging
import pickle
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import MathVerifier, Problem, State, Step, Verdict
from rftt.fingerprint import fingerprint
from rftt.verifiers.math import boxed

VERIFIER = MathVerifier(seconds=20)


def _judge(text: str, gold: str | None, verifier: MathVerifier = VERIFIER) -> Verdict:
    (verdict,) = verifier.judge([_state(text, gold)])
    return verdict


def _state(text: str, gold: str | None) -> State:
    return State(Problem("p", "?", gold), (Step("output", text, (), (), (), terminal=True),))


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


def test_the_answer_is_as_the_model_wrote_it_and_equal_ones_are_equivalent() -> None:
    answers = ["0.5", "\\frac{1}{2}", "1/2", "\\frac{2}{4}"]
    assert [_judge(f"\\boxed{{{a}}}", None).answer for a in answers] == answers
    for a in answers:
        for b in answers:
            assert VERIFIER.equivalent(a, b) is True
        assert VERIFIER.equivalent(a, "0.25") is False


@pytest.mark.parametrize(
    "gold", ["\\pi", "(-\\infty, 2]", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "y=2x+1"]
)
def test_a_gold_answer_in_its_own_words_is_right(gold: str) -> None:
    assert _judge(f"\\boxed{{{gold}}}", gold).score == 1.0
    assert VERIFIER.equivalent(gold, f" {gold} ") is True


@pytest.mark.parametrize(("a", "b"), [("1,3", "13"), ("1,23", "123"), ("12,34", "1234")])
def test_only_thousands_are_grouped_by_commas(a: str, b: str) -> None:
    assert VERIFIER.equivalent(a, b) is not True


ANSWERS = [
    "", "5", "05", "5.0", "5,000", "5000", "1,3", "13", "3,1", "(1,3)", "1<x<3", "x=5", "AB=5", "2+3=5",
    "1=5", "2x+y=5", "x^2+y^2=1", "1", "y=2x+1", "2x+1", "\\text{Evelyn}", "Evelyn",
    "\\frac{10}{2}", "50\\%",
]  # fmt: skip


@given(st.sampled_from(ANSWERS), st.sampled_from(ANSWERS))
def test_equivalence_holds_both_ways_and_is_what_is_scored(a: str, b: str) -> None:
    equivalent = VERIFIER.equivalent(a, b)
    assert VERIFIER.equivalent(b, a) is equivalent
    assert VERIFIER.equivalent(a, f" {a}") is True
    if b:
        score = _judge(f"\\boxed{{{b}}}", a).score
        assert score == (None if equivalent is None else float(equivalent))


@pytest.mark.parametrize(
    ("a", "b", "equivalent"),
    [
        ("5", "x=5", True),
        ("5", "AB=5", True),
        ("5", "2+3=5", True),
        ("5", "1=5", False),
        ("1", "x^2+y^2=1", False),
        ("5", "2x+y=5", False),
        ("(1,3)", "1<x<3", True),
        ("y=2x+1", "2x+1", True),
    ],
)
def test_an_equation_equals_the_value_that_it_gives(a: str, b: str, equivalent: bool) -> None:
    assert VERIFIER.equivalent(a, b) is VERIFIER.equivalent(b, a) is equivalent


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=6))
def test_problems_may_be_mixed_in_one_call(pairs: list[tuple[int, int]]) -> None:
    states = [_state(f"\\boxed{{{answer}}}", str(gold)) for answer, gold in pairs]
    assert [v.score for v in VERIFIER.judge(states)] == [float(a == g) for a, g in pairs]


def test_it_is_copied_pickled_and_described_by_its_settings() -> None:
    verifier = MathVerifier(seconds=7.0)
    assert verifier.equivalent("2x", "x+x") is True
    for other in (copy.deepcopy(verifier), pickle.loads(pickle.dumps(verifier))):
        assert fingerprint(other) == fingerprint(verifier) == fingerprint(MathVerifier(7.0))
        assert other.equivalent("2x", "x+x") is True
    assert fingerprint(MathVerifier(8.0)) != fingerprint(verifier)


def test_no_answer_scores_0_and_no_gold_abstains() -> None:
    assert _judge("forty-two", "42").score == 0.0
    assert _judge("forty-two", None).score is None
    assert _judge("\\boxed{42}", None) == Verdict(None, "42", "the problem has no gold answer")


def test_a_tower_of_powers_does_not_hang_and_the_next_answer_is_judged() -> None:
    verifier = MathVerifier(seconds=1.0)
    assert verifier.equivalent("x", "y") is False, "which starts the worker"
    start = time.monotonic()
    verdict = _judge("\\boxed{9^{9^{9^9}}}", "5", verifier)
    assert verdict.score is None
    assert "within 1 s" in verdict.reason
    assert time.monotonic() - start < 5
    verifier.seconds = 20.0
    assert _judge("\\boxed{\\frac{1}{3}}", "1/3", verifier).score == 1.0
    verifier.close()


def test_a_time_out_is_counted_and_not_remembered(caplog: pytest.LogCaptureFixture) -> None:
    verifier = MathVerifier(seconds=1e-9)
    with caplog.at_level(logging.WARNING):
        assert [verifier.equivalent("2x", "x+x") for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1, "not one a comparison"
    assert "1 answers could not be compared" in caplog.text
    verifier.seconds = 20.0
    assert verifier.equivalent("2x", "x+x") is True
    verifier.close()


def test_what_math_verify_cannot_compare_is_undecided() -> None:
    verdict = _judge("\\boxed{\\frac{0}{0}}", "0")
    assert verdict.score is None
    assert verdict.answer == "\\frac{0}{0}"
    assert "math-verify failed" in verdict.reason


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rftt.verifiers.math._CACHE_SIZE", 2)
    verifier = MathVerifier(seconds=20)
    for _ in range(2):
        assert [verifier.equivalent("2x", text) for text in ("x+x", "3x", "x2", "4x")] == [
            True, False, True, False,
        ]  # fmt: skip
        assert len(verifier._cache) == 2
    verifier.close()


def test_it_works_in_a_thread() -> None:
    found: list[float | None] = []
    thread = threading.Thread(
        target=lambda: found.append(_judge("\\boxed{2x}", "x+x", MathVerifier(seconds=20)).score)
    )
    thread.start()
    thread.join()
    assert found == [1.0]
