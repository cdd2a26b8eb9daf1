"""Several verifiers as one: what each rule makes of scores, abstentions, answers and steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from attrs import field, frozen
from hypothesis import given
from hypothesis import strategies as st

from rftt import Problem, State, Verdict, Verifier
from rftt.testing import check_verifier
from rftt.testing.verifier.cases import solution
from rftt.verifiers.composite import CompositeVerifier
from rftt.verifiers.extraction import boxed
from rftt.verifiers.function import FunctionVerifier, OnText

STATE = solution(Problem("p", "?", "5"), "so", "\\boxed{5}")


@frozen
class Says(Verifier):
    """Gives one verdict to all, and remembers how many it was asked for."""

    verdict: Verdict
    same: bool | None = None
    asked: list[int] = field(factory=list)

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        self.asked.append(len(states))
        return [self.verdict] * len(states)

    def equivalent(self, a: str, b: str) -> bool | None:
        return self.same


def _said(verdicts: Mapping[str, Verdict], **settings: Any) -> Verdict:
    members = {name: Says(verdict) for name, verdict in verdicts.items()}
    (verdict,) = CompositeVerifier(members, **settings).judge([STATE])
    return verdict


def is_gold(text: str, gold: str | None) -> float | None:
    return None if gold is None else float(boxed(text) == gold)


def shortness(text: str, gold: str | None) -> float:
    return 1 / (1 + len(text))


def steps(state: State) -> Verdict:
    scores = tuple(1 / (1 + len(step.text)) for step in state.steps)
    return Verdict(min(scores, default=0.5), step_scores=scores or None)


@pytest.mark.parametrize("rule", ["mean", "first", "agree"])
@pytest.mark.parametrize("abstention", ["abstain", "skip"])
def test_it_keeps_every_promise(rule: Any, abstention: Any) -> None:
    members = {
        "rule": FunctionVerifier(OnText(is_gold), boxed),
        "short": FunctionVerifier(OnText(shortness), scores_partial=True),
        "steps": FunctionVerifier(steps, scores_partial=True),
    }
    check_verifier(CompositeVerifier(members, rule, abstention=abstention, steps_from="steps"))
    if rule == "mean":
        weights = {"rule": 0.6, "short": 0.0, "steps": 0.4}
        check_verifier(CompositeVerifier(members, weights=weights, abstention=abstention))


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0.01, 10)), min_size=1, max_size=5))
def test_the_mean_is_weighted(pairs: list[tuple[float, float]]) -> None:
    verdicts = {str(n): Verdict(score) for n, (score, _) in enumerate(pairs)}
    weights = {str(n): weight for n, (_, weight) in enumerate(pairs)}
    score = _said(verdicts, weights=weights).score
    assert score is not None
    expected = sum(s * w for s, w in pairs) / sum(w for _, w in pairs)
    assert math.isclose(score, expected, abs_tol=1e-12)
    # Whatever its weights, a mean of one number is that number.
    same = dict.fromkeys(verdicts, Verdict(0.1))
    assert _said(same, weights=weights).score == 0.1


def test_the_papers_last_step_is_six_tenths_outcome() -> None:
    verdicts = {"outcome": Verdict(1.0), "prm": Verdict(0.5)}
    assert _said(verdicts, weights={"outcome": 0.6, "prm": 0.4}).score == pytest.approx(0.8)


ABSTAINS = Verdict(None, reason="no gold")


@pytest.mark.parametrize(
    ("rule", "abstention", "score"),
    [
        ("mean", "abstain", None),
        ("mean", "skip", 0.5),
        ("first", "abstain", 1.0),
        ("agree", "abstain", None),
        ("agree", "skip", None),
    ],
)
def test_what_an_abstention_does(rule: str, abstention: str, score: float | None) -> None:
    verdicts = {"a": ABSTAINS, "b": Verdict(1.0), "c": Verdict(0.0)}
    verdict = _said(verdicts, rule=rule, abstention=abstention)
    assert verdict.score == score
    if score is None:
        assert "no gold" in verdict.reason
    assert _said({"a": ABSTAINS, "b": ABSTAINS}, rule=rule, abstention=abstention) == Verdict(
        None, reason="a abstained: no gold; b abstained: no gold"
    )


def test_all_must_agree() -> None:
    assert _said({"a": Verdict(1.0), "b": Verdict(1.0)}, rule="agree").score == 1.0
    differ = {"a": Verdict(1.0), "b": Verdict(0.9)}
    verdict = _said(differ, rule="agree")
    assert verdict.score is None
    assert verdict.reason == "the members differ: a 1, b 0.9"
    assert _said(differ, rule="agree", tolerance=0.11).score == pytest.approx(0.95)
    with_silence = {"a": ABSTAINS, "b": Verdict(1.0), "c": Verdict(1.0)}
    assert _said(with_silence, rule="agree").score is None
    assert _said(with_silence, rule="agree", abstention="skip").score == 1.0


def test_the_first_that_does_not_abstain_and_nobody_after_it_is_asked() -> None:
    members = {"a": Says(ABSTAINS), "b": Says(Verdict(0.25, "7")), "c": Says(Verdict(1.0, "8"))}
    verdicts = CompositeVerifier(members, "first").judge([STATE] * 3)
    assert {(v.score, v.answer, v.reason) for v in verdicts} == {(0.25, "7", "b")}
    assert [member.asked for member in members.values()] == [[3], [3], []]


def test_the_answer_is_of_the_first_that_has_one() -> None:
    verdicts = {"a": Verdict(1.0), "b": Verdict(1.0, "5"), "c": Verdict(1.0, "6")}
    assert _said(verdicts).answer == "5"
    assert _said({**verdicts, "a": Verdict(None, "4")}).answer == "4", "from one that abstains too"


def test_steps_are_scored_where_all_score_them_or_by_the_member_that_is_named() -> None:
    a, b = Verdict(1.0, step_scores=(0.0, 1.0)), Verdict(0.0, step_scores=(1.0, 0.5))
    none = Verdict(0.5)
    weights = {"a": 3.0, "b": 1.0}
    assert _said({"a": a, "b": b}, weights=weights).step_scores == (0.25, 0.875)
    assert _said({"a": a, "b": none}).step_scores is None
    assert _said({"a": a, "b": none}, steps_from="a").step_scores == (0.0, 1.0)
    assert _said({"a": none, "b": b}, rule="first").step_scores is None
    assert _said({"a": none, "b": b}, rule="first", steps_from="b").step_scores == (1.0, 0.5)
    assert _said({"a": none, "b": b}, rule="first", steps_from="b").score == 0.5
    silent = Verdict(None, step_scores=(0.5, 0.5))
    assert _said({"a": silent, "b": b}, abstention="skip").step_scores == (1.0, 0.5)


def test_answers_are_compared_by_the_first_that_decides() -> None:
    def same(*decisions: bool | None) -> bool | None:
        members = {str(n): Says(Verdict(1.0), d) for n, d in enumerate(decisions)}
        return CompositeVerifier(members).equivalent("a", "b")

    assert same(None, True, False) is True
    assert same(False, True) is False
    assert same(None, None) is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"members": {}}, "members: there are none"),
        ({"weights": {"a": 1.0}}, "'b' is a member without a weight"),
        ({"weights": {"a": 1.0, "b": 1.0, "c": 1.0}}, "'c' is a member without a weight, or no member"),
        ({"weights": {"a": 1.0, "b": -1.0}}, "not all finite and at least 0"),
        ({"weights": {"a": 0.0, "b": 0.0}}, "all are 0"),
        ({"weights": {"a": 1.0, "b": 1.0}, "rule": "first"}, "'first' has none"),
        ({"steps_from": "c"}, r"'c' is none of \['a', 'b'\]"),
        ({"rule": "vote"}, "rule"),
        ({"abstention": "zero"}, "abstention"),
    ],
)
def test_what_fits_nothing_is_refused(settings: dict[str, Any], words: str) -> None:
    members = {"a": Says(ABSTAINS), "b": Says(ABSTAINS)}
    with pytest.raises(ValueError, match=words):
        CompositeVerifier(**{"members": members, **settings})


def test_a_member_of_weight_0_alone_decides_nothing() -> None:
    verdicts = {"a": ABSTAINS, "b": Verdict(1.0)}
    verdict = _said(verdicts, weights={"a": 1.0, "b": 0.0}, abstention="skip")
    assert verdict.score is None
    assert "weight 0" in verdict.reason


def test_a_member_with_too_few_verdicts_is_named() -> None:
    class Few(Says):
        def judge(self, states: Sequence[State]) -> list[Verdict]:
            return []

    with pytest.raises(ValueError, match="member 'few', a Few, returned 0 verdicts for 1 states"):
        CompositeVerifier({"few": Few(ABSTAINS)}).judge([STATE])
