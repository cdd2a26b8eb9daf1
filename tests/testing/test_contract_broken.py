"""Each promise of a search strategy is one that a strategy can break and be caught."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from unittest import SkipTest

import pytest

from rftt import Searcher
from rftt.search.strategies import MCTS, BestOfN
from rftt.testing import (
    PROMISES,
    BrokenPromises,
    ContractViolation,
    check_searcher,
    searcher_checks,
)
from tests.testing import broken, broken_subtly

OPEN_ENDED = {"ends": "the budget ends it"}
EXAMPLES = 10

BROKEN: list[tuple[Searcher, str]] = [
    (broken.KeepsRolloutsBack(), "visits"),
    (broken.NoNegativeScores(), "values"),
    (broken.IgnoresDiscount(discount=0.5), "discount"),
    (broken.Overlooks(), "starvation"),
    (broken.AddsNodes(), "budget"),
    (broken.RaisesItsLimit(), "budget"),
    (broken.TakesBackRollouts(), "budget"),
    (broken.Relabels(), "structure"),
    (broken.SortsChildren(), "structure"),
    (broken.TakesTurns(), "hidden state"),
    (broken.ComparesProblems(), "batch"),
    (broken.SetInMemo(), "resume"),
    (broken.EndsAtOnce(), "grammar"),
    (broken.BelowExhausted(), "exhausted"),
    (broken.ForgetsItsStart(count=2), "commitment"),
    (broken.NeverEnds(count=1), "ends"),
    (broken.Pauses(count=1), "progress"),
    (broken.NeverBegins(), "answer"),
    (broken.CountsOnScores(), "any reply"),
    # What hypothesis does not draw often enough, or never.
    (broken_subtly.TakesFromASet(), "same seed"),
    (broken_subtly.ReadsGold(), "gold answer"),
    (broken_subtly.ReadsMetadata(), "gold answer"),
    (broken_subtly.CachesOnTheClass(), "hidden state"),
    (broken_subtly.SkipsTheUnlikely(), "starvation"),
    (broken_subtly.ClosesEarly(), "exhausted"),
    (broken_subtly.LeavesRollouts(), "ends"),
    (broken_subtly.EndsForGood(), "ends"),
    (broken_subtly.YieldsExpansions(), "request"),
    (broken_subtly.AsksForAMillion(), "request"),
    (broken_subtly.ListsAMillion(), "request"),
    (broken_subtly.NeverReturns(), "time limit"),
    (broken_subtly.WaitsForEver(), "time limit"),
]
"""Each promise, and each part of the contract that finds what is broken."""

MORE: list[tuple[Searcher, str]] = [
    (broken.CountsTwice(), "visits"),
    (MCTS(selection=broken.uct_of_the_visited), "starvation"),
    (broken.TakesTurnsOfAll(), "hidden state"),
    (broken.OwnChance(), "hidden state"),
    (broken.RemembersProblems(), "hidden state"),
    (broken.NumbersAsKeys(), "resume"),
    (broken.ExpandsLeaves(), "grammar"),
    (broken.Reopens(), "exhausted"),
    (broken.EndsByAsking(), "progress"),
    (broken.CountsOnAll(), "any reply"),
    (broken_subtly.CachesOptions(), "hidden state"),
    (broken_subtly.ScalesByTheFirst(), "hidden state"),
    (broken_subtly.KeepsFewPlans(), "batch"),
    (broken_subtly.TakesLogarithms(), "any reply"),
    (broken_subtly.ClosesTheLosing(), "exhausted"),
]
"""Other ways to break them, which the same parts find."""

HINTED: list[tuple[Searcher, str]] = [
    (broken_subtly.ScoresItself(), "visits"),
    (broken_subtly.NamesItGamma(), "values"),
]
"""Breaks of which the message guesses the cause."""


def _name(value: object) -> str:
    return type(value).__name__ if isinstance(value, Searcher) else str(value).replace(" ", "_")


@cache
def _caught(kind: type[Searcher]) -> ContractViolation:
    """Check a strategy of a class, once for all tests that look at what is found."""
    searcher, promise = next(case for case in [*BROKEN, *MORE, *HINTED] if type(case[0]) is kind)
    waived = {} if promise == "ends" else OPEN_ENDED
    with pytest.raises(ContractViolation) as caught:
        check_searcher(
            searcher, max_examples=EXAMPLES, max_shrinks=10, max_rounds=200, waived=waived, seconds=1.0
        )
    return caught.value


def _first(kind: type[Searcher]) -> ContractViolation:
    caught = _caught(kind)
    return caught.violations[0] if isinstance(caught, BrokenPromises) else caught


@pytest.mark.parametrize(
    ("searcher", "promise"),
    [*BROKEN, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)],
    ids=_name,
)
def test_a_broken_promise_is_named(searcher: Searcher, promise: str) -> None:
    violation = _first(type(searcher))
    assert violation.promise == promise
    message = str(violation)
    assert message.startswith(f"{promise}: ")
    assert PROMISES[promise] in message
    shows_other = "p1 round 0: " in violation.scenario
    assert shows_other == isinstance(searcher, broken.ComparesProblems), "the other tree, if it matters"


def test_every_promise_but_those_tried_on_request_has_a_strategy_that_breaks_it() -> None:
    assert {promise for _, promise in BROKEN} == PROMISES.keys() - {"best leaf"}


@cache
def _checks_of_counts_twice() -> dict[str, Callable[[], None]]:
    return dict(searcher_checks(broken.CountsTwice(), max_examples=EXAMPLES, waived=OPEN_ENDED))


def test_a_broken_promise_is_told_by_a_small_case() -> None:
    with pytest.raises(ContractViolation) as caught:
        _checks_of_counts_twice()["visits"]()
    assert caught.value.scenario == (
        "round 0: asked 1 x node 0, <a>, until solution\n"
        "  told node 0 got 1 scored -1\n"
        "tree 'p0', at most 1 steps deep:\n"
        '0 question "what is it?" visits 2 value -1 exhausted\n'
        '  1 a "" visits 2 value -1 score -1 exhausted'
    )


def test_an_error_in_the_strategy_is_the_cause() -> None:
    caught = _caught(broken.CountsOnScores)
    assert "tell raised TypeError" in str(caught)
    assert isinstance(caught.__cause__, TypeError)


def test_all_broken_promises_are_told() -> None:
    with pytest.raises(BrokenPromises) as caught:
        check_searcher(broken_subtly.Careless(), max_examples=20, max_shrinks=10, max_rounds=200)
    assert {violation.promise for violation in caught.value.violations} == {
        "visits", "gold answer", "ends",
    }  # fmt: skip
    assert caught.value.promise == caught.value.violations[0].promise
    assert str(caught.value).startswith("3 promises are broken: ")
    for violation in caught.value.violations:
        assert str(violation) in str(caught.value)


def test_what_follows_from_a_broken_promise_is_not_told_as_broken() -> None:
    caught = _caught(broken.TakesTurns)
    assert isinstance(caught, BrokenPromises)
    assert [violation.promise for violation in caught.violations] == ["hidden state"]
    assert caught.untried.keys() == {"same seed", "batch", "resume", "gold answer"}
    assert str(caught).endswith(
        "Not tried, because hidden state is broken, from which the others follow: same seed, batch, "
        "resume, gold answer"
    )


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        (broken_subtly.ScoresItself, "set `scores_partial = True`"),
        (broken_subtly.NamesItGamma, "make the factor an attribute named `discount`"),
        (broken.IgnoresDiscount, "discount=self.discount"),
        (broken_subtly.YieldsExpansions, "return a list of Expansion"),
        (broken_subtly.AsksForAMillion, "tree.budget says how much that is"),
        (broken_subtly.LeavesRollouts, "plan with tree.budget.rollouts - tree.rollouts"),
        (broken.NeverEnds, "let is_done say what is enough"),
    ],
)
def test_a_message_says_what_to_do(kind: type[Searcher], advice: str) -> None:
    assert advice in _first(kind).what


def test_each_promise_has_a_check_of_its_own() -> None:
    checks = dict(_checks_of_counts_twice())
    assert checks.keys() == PROMISES.keys() - {"ends", "best leaf"}
    with pytest.raises(ContractViolation, match=r"^visits: "):
        checks.pop("visits")()
    with pytest.raises(SkipTest, match=r"^answer was not tried, because visits is broken"):
        checks.pop("answer")()
    for check in checks.values():
        check()


def test_a_check_that_could_not_be_tried_is_skipped() -> None:
    checks = dict(searcher_checks(broken_subtly.NeverReturns(), seconds=0.5))
    with pytest.raises(ContractViolation, match=r"^time limit: ask had not returned after 0\.5 s"):
        checks["time limit"]()
    with pytest.raises(SkipTest, match=r"^visits was not tried, because time limit is broken"):
        checks["visits"]()


@pytest.mark.parametrize(("promise", "check"), searcher_checks(BestOfN(), max_examples=2))
def test_checks_are_parameters(promise: str, check: Callable[[], None]) -> None:
    assert promise in PROMISES
    check()


def test_checks_refuse_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="there is no promise 'visit'"):
        searcher_checks(MCTS(), waived={"visit": "a slip"})


def test_time_is_limited_in_any_thread() -> None:
    raised: list[BaseException] = []

    def check() -> None:
        try:
            check_searcher(broken_subtly.NeverReturns(), seconds=0.5)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=check)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert isinstance(raised[0], ContractViolation)
    assert raised[0].promise == "time limit"
    assert "broken_subtly.py" in raised[0].what


def test_a_class_that_cannot_be_imported_is_tried_in_this_process_and_that_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Local(broken.SamplesFew):
        pass

    check_searcher(Local(), max_examples=5)
    assert "'same seed' was tried in this process alone: Local cannot be sent" in caplog.text
    assert "define the class at the top of a module that can be imported" in caplog.text


def test_what_a_strategy_prints_does_not_get_among_what_another_process_says() -> None:
    check_searcher(broken_subtly.Prints(), max_examples=5)


def test_other_processes_need_no_hypothesis() -> None:
    code = (
        "import sys; import rftt.testing.searcher.searches.child; "
        "assert not {'hypothesis', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
