"""A verifier made of a function: what it may return, what it does not see, what its errors do."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import Problem, State, Verdict
from rftt.fingerprint import fingerprint
from rftt.testing import check_verifier
from rftt.testing.verifier.cases import default_states, solution, unusual
from rftt.verifiers.extraction import boxed
from rftt.verifiers.function import FunctionVerifier, OnText


def is_gold(state: State) -> bool | None:
    gold = state.problem.answer
    return None if gold is None else boxed(state.steps[-1].text) == gold


def length(text: str, gold: str | None, *, most: int = 100) -> float:
    return min(len(text), most) / most


def squeezed(a: str, b: str) -> bool | None:
    return a.replace(" ", "") == b.replace(" ", "")


def fails(state: State) -> float:
    return 1 / 0


def _state(text: str = "\\boxed{5}", gold: str | None = "5") -> State:
    return solution(Problem("p7", "?", gold), "so", text)


def _judge(function: Callable[[State], Any], **settings: Any) -> Verdict:
    (verdict,) = FunctionVerifier(function, **settings).judge([_state()])
    return verdict


def test_it_keeps_every_promise() -> None:
    check_verifier(FunctionVerifier(is_gold, boxed, squeezed))
    check_verifier(FunctionVerifier(OnText(partial(length, most=50)), scores_partial=True))


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53) | st.booleans())
def test_a_number_is_the_score(value: float) -> None:
    verdict = _judge(lambda state: value)
    assert verdict == Verdict(float(value))
    assert type(verdict.score) is float


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5)])
def test_a_number_of_numpy_is_a_number(value: Any) -> None:
    assert _judge(lambda state: value) == Verdict(0.5)
    assert _judge(lambda state: np.bool_(True)) == Verdict(1.0)


def test_nothing_abstains_and_a_verdict_stays_as_it_is() -> None:
    verdict = _judge(lambda state: None)
    assert verdict.score is None
    assert "abstained" in verdict.reason
    given = Verdict(0.25, "x", "why", (0.5, 0.75))
    assert _judge(lambda state: given) == given
    assert _judge(lambda state: given, extraction=boxed) == given
    assert _judge(lambda state: 1, extraction=boxed).answer == "5"


def test_partial_solutions_are_seen_only_if_they_are_scored() -> None:
    seen: list[State] = []

    def score(state: State) -> float:
        seen.append(state)
        return 1.0

    states = unusual(default_states())
    complete = [s for s in states if s.steps and s.steps[-1].terminal and not s.steps[-1].truncated]
    verdicts = FunctionVerifier(score).judge(states)
    assert seen == complete
    assert [v.score for v in verdicts] == [1.0 if s in complete else None for s in states]
    assert {"not complete" in v.reason for v in verdicts if v.score is None} == {True}
    seen.clear()
    assert {v.score for v in FunctionVerifier(score, scores_partial=True).judge(states)} == {1.0}
    assert seen == states


def test_an_error_names_the_problem_or_abstains_and_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ValueError, match=r"problem 'p7': .*ZeroDivisionError.*errors='abstain'"):
        _judge(fails)
    verifier = FunctionVerifier(fails, errors="abstain")
    with caplog.at_level(logging.WARNING):
        verdicts = verifier.judge([_state()] * 12)
    assert {v.score for v in verdicts} == {None}
    assert all("ZeroDivisionError" in v.reason for v in verdicts)
    assert [r.getMessage().split()[2] for r in caplog.records] == ["1", "10"]
    assert "p7" in caplog.text


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (float("nan"), ValueError, "not a finite number"),
        (float("inf"), ValueError, "not a finite number"),
        ("0.5", TypeError, "returned '0.5', a str"),
        ([1.0], TypeError, "a list"),
        (1j, TypeError, "a complex"),
    ],
)
def test_what_is_no_score_is_refused(value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"problem 'p7': .*{words}"):
        _judge(lambda state: value)


def test_a_function_of_texts() -> None:
    seen: list[tuple[str, str | None]] = []

    def score(text: str, gold: str | None) -> float:
        seen.append((text, gold))
        return 0.5

    state = _state("the end", None)
    for whole in (True, False):
        FunctionVerifier(OnText(score, whole=whole)).judge([state])
    assert seen == [("so\nthe end", None), ("the end", None)]
    FunctionVerifier(OnText(score, whole=False), scores_partial=True).judge([State(state.problem)])
    assert seen[-1] == ("", None)


def test_it_is_described_by_its_parts() -> None:
    one, other = (FunctionVerifier(OnText(partial(length, most=n))) for n in (50, 60))
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(pickle.loads(pickle.dumps(one)))
    assert fingerprint(FunctionVerifier(is_gold)) != fingerprint(FunctionVerifier(fails))
    with pytest.raises(ValueError, match="function is a lambda"):
        fingerprint(FunctionVerifier(lambda state: 1.0))


def test_answers_are_compared_by_what_is_given() -> None:
    assert FunctionVerifier(is_gold).equivalent("1 2", "12") is False
    assert FunctionVerifier(is_gold, comparison=squeezed).equivalent("1 2", "12") is True
    with pytest.raises(ValueError, match="errors"):
        FunctionVerifier(is_gold, errors="ignore")  # type: ignore[arg-type]
