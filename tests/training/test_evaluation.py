"""Accuracy by any verifier, without a look at gold answers until the marking."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
from attrs import frozen

from rftt import (
    BestOfN,
    Budget,
    Grammar,
    MathVerifier,
    Problem,
    SearchConfig,
    State,
    Verdict,
    Verifier,
    evaluate,
)
from rftt.testing.finite.tabular import Reply, TabularPolicy
from rftt.training.evaluation import wilson

POLICY = TabularPolicy(Grammar.default(), {(): [Reply("next_step", "the answer is \\boxed{1/2}", 1.0)]})
PROBLEMS = [Problem("a", "?", "1/2"), Problem("b", "?", "0.5"), Problem("c", "?", "2")]
CONFIG = SearchConfig(Budget(rollouts=3))


@frozen
class _LastWord(Verifier):
    """A user's own verifier: nothing but ``judge``."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        assert all(state.problem.answer is None for state in states), "gold answers are taken away"
        return [Verdict(None, state.steps[-1].text.split("{")[-1].rstrip("}")) for state in states]


class _Undecided(_LastWord):
    def equivalent(self, a: str, b: str) -> bool | None:
        return None


def test_any_verifier_will_do() -> None:
    result, trees = evaluate(PROBLEMS, BestOfN(), POLICY, _LastWord(), CONFIG)
    assert result.marks == (True, False, False), "by the text"
    assert result.functions == {"next_step": 9}
    assert result.tokens == 9
    assert [tree.problem.id for tree in trees] == ["a", "b", "c"]


def test_the_rule_marks_equal_answers() -> None:
    result, _ = evaluate(PROBLEMS, BestOfN(), POLICY, MathVerifier(), CONFIG)
    assert result.marks == (True, True, False)


def test_what_cannot_be_decided_is_not_right_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        result, _ = evaluate(PROBLEMS, BestOfN(), POLICY, _Undecided(), CONFIG)
    assert result.accuracy == 0
    assert "3 of 3 answers could not be compared" in caplog.text


def test_a_problem_without_an_answer_is_named() -> None:
    with pytest.raises(ValueError, match="'d' has no answer"):
        evaluate([Problem("d", "?")], BestOfN(), POLICY, MathVerifier(), CONFIG)


def test_the_interval_is_wilsons() -> None:
    # Wilson (1927) for 8 of 10 at 95%: 0.490162 to 0.943318, as in Newcombe (1998), method 3.
    assert wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-5)
