"""Verifiers keep their promises, and each promise is one that a verifier can break and be caught."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from rftt import MathVerifier, State, Verdict, Verifier
from rftt.testing import (
    LEARNER_PROMISES,
    POLICY_PROMISES,
    PROMISES,
    VERIFIER_PROMISES,
    ContractViolation,
    check_verifier,
)
from rftt.testing.verifier.cases import default_states, unusual
from tests.testing import broken_verifiers as broken

BROKEN: list[tuple[Callable[[], Verifier], str]] = [
    (broken.DropsDuplicates, "verdicts"),
    (broken.NothingForNothing, "verdicts"),
    (broken.TruthValues, "verdicts"),
    (broken.NoScoreForTheLast, "verdicts"),
    (broken.WantsGold, "any state"),
    (broken.WantsSteps, "any state"),
    (broken.WantsTheEnd, "any state"),
    (broken.HoldsALock, "pickle"),
    (lambda: broken.ForgetsSettings(0.75), "pickle"),
    (broken.Lottery, "repetition"),
    (broken.CachesById, "memory"),
    (broken.CachesByPlace, "memory"),
    (broken.CachesByAnswer, "memory"),
    (broken.ByProblem, "verdict order"),
    (broken.Relative, "company"),
    (broken.OncePerCall, "company"),
    (broken.TakesNotes, "states unchanged"),
    (broken.EmptiesTheList, "states unchanged"),
    (broken.Contained, "equivalence"),
    (broken.Numbers, "equivalence"),
    (broken.NotItself, "equivalence"),
    (broken.CountsInItsSettings, "fingerprint"),
    (broken.LocalFunction, "fingerprint"),
    (broken.SharedScratch, "threads"),
    (broken.SharesItsPipe, "forks"),
    (broken.KeepsItsLock, "forks"),
    (broken.LeavesReplies, "interrupt"),
    (broken.Backtracks, "time limit"),
    (broken.Evaluates, "time limit"),
    (broken.Encodes, "time limit"),
    (broken.OneTimeLimit, "aftermath"),
    (broken.DiesOfIt, "aftermath"),
]


def _name(value: object) -> str:
    return getattr(value, "__name__", str(value)).replace(" ", "_")


@pytest.mark.parametrize("build", [broken.Exact, broken.ScoresSteps, broken.PipeVerifier], ids=_name)
def test_right_verifiers_keep_every_promise(build: Callable[[], Verifier]) -> None:
    check_verifier(build)


def test_a_verifier_that_is_made_already_is_copied() -> None:
    check_verifier(broken.PipeVerifier())


def test_the_math_verifier_keeps_every_promise() -> None:
    check_verifier(MathVerifier)


@pytest.mark.parametrize(("build", "promise"), BROKEN, ids=_name)
def test_a_broken_promise_is_named(build: Callable[[], Verifier], promise: str) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_verifier(build, seconds=1.0)
    assert caught.value.promise == promise
    assert str(caught.value).startswith(f"{promise}: ")
    assert VERIFIER_PROMISES[promise] in str(caught.value)


def test_every_promise_is_one_that_a_verifier_here_breaks() -> None:
    assert {promise for _, promise in BROKEN} == VERIFIER_PROMISES.keys()
    others = PROMISES.keys() | LEARNER_PROMISES.keys() | POLICY_PROMISES.keys()
    # What is said of a strategy's calls is said of a verifier's.
    assert VERIFIER_PROMISES.keys() & others == {"time limit"}


def test_a_waived_promise_is_not_demanded_and_others_are() -> None:
    check_verifier(broken.Relative, waived={"company": "a rank among its peers"})
    check_verifier(broken.HoldsALock(), waived={"pickle": "lives in one process"})
    with pytest.raises(ContractViolation, match=r"^verdict order: "):
        check_verifier(broken.ByProblem, waived={"company": "a rank among its peers"})


def test_a_tolerance_is_for_rounding() -> None:
    class Rounds(broken.Exact):
        def judge(self, states: object) -> list[Verdict]:
            verdicts = super().judge(states)  # type: ignore[arg-type]
            noise = 1e-6 * len(verdicts)
            return [Verdict(None if v.score is None else v.score + noise, v.answer) for v in verdicts]

    waived = {"pickle": "a class of a test"}
    check_verifier(Rounds, waived=waived, tolerance=1e-4)
    with pytest.raises(ContractViolation, match=r"^company: "):
        check_verifier(Rounds, waived=waived)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no promise 'fork'; there are: verdicts, "):
        check_verifier(broken.Exact, waived={"fork": "a slip"})
    alike = [broken.solved(number, "5", "5") for number in range(3)]
    with pytest.raises(ValueError, match=r"the verdict on all 3 of them is \(score 1\.0"):
        check_verifier(broken.Exact, states=alike)
    with pytest.raises(ValueError, match="give at least two states"):
        check_verifier(broken.Exact, states=alike[:1])


def test_what_cannot_be_tried_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        thread = threading.Thread(target=check_verifier, args=(broken.Exact,))
        thread.start()
        thread.join()
    assert "interrupts were not tried" in caplog.text


def test_the_states_hold_what_promises_are_about() -> None:
    """Right and wrong, several of one problem, one id twice; no steps, unfinished, truncated."""
    states = default_states()
    scores = [v.score for v in broken.Exact().judge(states)]
    assert {0.0, 1.0} == set(scores)
    ids = [state.problem.id for state in states]
    assert len(set(ids)) < len(ids)
    same = [s.problem for s in states if s.problem.id == "same"]
    assert len({p.answer for p in same}) == 2
    odd = unusual(states)

    def some(test: Callable[[State], bool]) -> bool:
        return any(map(test, odd))

    assert some(lambda state: not state.steps)
    assert some(lambda state: state.problem.answer is None and bool(state.steps))
    assert some(lambda state: bool(state.steps) and not state.steps[-1].terminal)
    assert some(lambda state: bool(state.steps) and state.steps[-1].truncated)
