"""Answers: what is equal, what is not, and what is scored."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftt import MathVerifier, Problem, State, Step, Verdict
from rftt.fingerprint import fingerprint
from rftt.search.answers.voting import group_answers
from rftt.verifiers import extraction
from rftt.verifiers.math.text import clean

VERIFIER = MathVerifier(seconds=20)
CASES: list[dict[str, Any]] = [
    json.loads(line) for line in Path(__file__).with_name("answers.jsonl").read_text().splitlines()
]


def _judge(text: str, gold: str | None, verifier: MathVerifier = VERIFIER) -> Verdict:
    (verdict,) = verifier.judge([_state(text, gold)])
    return verdict


def _state(text: str, gold: str | None) -> State:
    return State(Problem("p", "?", gold), (Step("output", text, (), (), (), terminal=True),))


def test_reported_cases() -> None:
    """What people reported of mathematical graders; an extraction that is not boxed is named, and so is
    what is not met, with the reason."""
    for name in {case.get("extraction", "boxed") for case in CASES}:
        cases = [case for case in CASES if case.get("extraction", "boxed") == name]
        verifier = MathVerifier(20, getattr(extraction, name), undecided="wrong")
        verdicts = verifier.judge([_state(case["answer"], case["gold"]) for case in cases])
        for case, verdict in zip(cases, verdicts, strict=True):
            assert (verdict.score == float(case["right"])) is ("unmet" not in case), case


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_whole_numbers(gold: int, answer: int) -> None:
    assert _judge(f"\\boxed{{{answer}}}", str(gold)).score == float(gold == answer)


_SPELLINGS = [
    lambda n, d: f"{n}/{d}",
    lambda n, d: f"\\frac{{{n}}}{{{d}}}",
    lambda n, d: f"$\\dfrac{{{n}}}{{{d}}}$.",
    lambda n, d: f"x = \\tfrac{{{n}}}{{{d}}}",
    lambda n, d: f"{n} / {d} \\text{{ hours}}",
    lambda n, d: f"{n // d}\\frac{{{n % d}}}{{{d}}}",
    lambda n, d: f"{n // d} {n % d}/{d}",
    lambda n, d: f"\\frac{{{100 * n}}}{{{d}}}\\%",
]
_FRACTIONS = st.tuples(st.integers(1, 30), st.integers(2, 12)).filter(lambda pair: pair[0] % pair[1])


@given(_FRACTIONS, _FRACTIONS, st.sampled_from(_SPELLINGS), st.sampled_from(_SPELLINGS))
def test_fractions_in_any_spelling(a: Any, b: Any, spell_a: Any, spell_b: Any) -> None:
    # A share, and a number a hundred times as large, are equal to 100 % of it.
    ratio = Fraction(*a) / Fraction(*b)
    percents = (spell_a is _SPELLINGS[-1]) - (spell_b is _SPELLINGS[-1])
    expected = ratio == 1 or (percents != 0 and ratio * Fraction(100) ** percents == 1)
    assert VERIFIER.equivalent(spell_a(*a), spell_b(*b)) is expected


@given(st.decimals(-1000, 1000, places=4), st.integers(-12, 12))
def test_powers_of_ten(value: Any, power: int) -> None:
    spelled = [f"{value}e{power}", f"{value} \\times 10^{{{power}}}", f"${value}\\cdot 10^{{{power}}}$"]
    plain = f"{value.scaleb(power):f}"
    assert all(VERIFIER.equivalent(plain, text) for text in spelled)
    assert value == 0 or not any(
        VERIFIER.equivalent(f"{value.scaleb(power + 1):f}", text) for text in spelled
    )


@settings(max_examples=25)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.sampled_from(["x", "n", "t"]))
def test_products_and_sums_of_names(a: int, b: int, c: int, x: str) -> None:
    factored = f"({x}+{a})({x}+{b})"
    expanded = [f"{x}^2+{a + b}{x}+{a * b}", f"{a * b} + {x}\\cdot {x} + {a + b}{x}"]
    assert all(VERIFIER.equivalent(factored, text) for text in expanded)
    assert VERIFIER.equivalent(factored, f"{x}^2+{a + b}{x}+{a * b + c}") is False
    assert VERIFIER.equivalent(f"\\sqrt{{{a * a * b}}}", f"{a}\\sqrt{{{b}}}") is True
    assert VERIFIER.equivalent(f"\\sqrt{{{a * a * b + c}}}", f"{a}\\sqrt{{{b}}}") is False


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
        ("5", "5 ½", 0.0),
        ("11/2", "5½", 1.0),
        ("2i", "2 i", 1.0),
        ("\\emptyset", "\\varnothing", 1.0),
        ("5", "5 m", 1.0),
        ("2\\pi", "2\\pi square units", 1.0),
        ("1-1/e", "1 - \\frac{1}{\\mathrm{e}}", 1.0),
        ("6\\sqrt{2}", "6\\sqrt{2} \\text{ square feet}", 1.0),
        ("x+1", "1+x\\text{ apples}", 1.0),
        ("\\text{June 20}", "June 20", 1.0),
        ("x", "\\text{x=5}", 0.0),
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
    "gold", ["\\pi", "(-\\infty, 2]", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "y=2x+1", "1/0"]
)
def test_a_gold_answer_in_its_own_words_is_right(gold: str) -> None:
    assert _judge(f"\\boxed{{{gold}}}", gold).score == 1.0
    assert VERIFIER.equivalent(gold, f" {gold} ") is True


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1,3", "13"), ("1,23", "123"), ("12,34", "1234"), ("1,0000", "10000"),
        ("2", "(1,2)"), ("1", "(1,2)"),
        ("12", "\\le 12"), ("\\ge 12", "\\le 12"), ("52_8", "52_9"), ("52_8", "42"), ("52_8", "42_{10}"),
        ("0.0000001", "0.0000002"), ("10^{-9}", "0"), ("\\frac{1}{10^{10}}", "\\frac{1}{10^{11}}"),
        ("(0.0000001, x)", "(0.0000002, x)"), ("x = 10^{-7}", "x = 2 \\cdot 10^{-7}"),
        ("\\{1, 2\\}", "(1, 2)"), ("5 \\text{ cm}", "5 \\text{ kg}"), ("\\$5", "5 \\text{ cents}"),
        ("3t", "3"), ("x + 2m", "x + 2"),
        ("5m", "5"), ("36^\\circ", "\\$36"), ("36 \\text{ degrees}", "36 cm"),
        ("\\frac{0}{0}", "0"), ("\\frac{0}{0}", "\\frac{1}{0}"), ("\\text{cab}", "\\text{abc}"),
        ("1, 2, \\ldots, 10", "1, 2, \\ldots, 11"), ("", "5"), ("", "x"),
    ],
)  # fmt: skip
def test_what_is_not_equal(a: str, b: str) -> None:
    assert VERIFIER.equivalent(a, b) is False
    assert VERIFIER.equivalent(b, a) is False


ANSWERS = [
    "", "5", "05", "5.0", "5,000", "5000", "1,3", "13", "3,1", "(1,3)", "1<x<3", "x=5", "AB=5", "2+3=5",
    "1=5", "2x+y=5", "x^2+y^2=1", "1", "y=2x+1", "2x+1", "\\text{Evelyn}", "Evelyn",
    "\\frac{10}{2}", "50\\%", "0.5", "50", "\\{1,3\\}", "52_8", "52", "5 \\text{ cm}", "5 m", "\\le 5",
    "90^\\circ", "\\frac{\\pi}{2}", "E", "E: five", "1, 2, \\ldots, 5",
]  # fmt: skip


@given(st.sampled_from(ANSWERS), st.sampled_from(ANSWERS))
def test_equivalence_holds_both_ways_and_is_what_is_scored(a: str, b: str) -> None:
    equivalent = VERIFIER.equivalent(a, b)
    assert VERIFIER.equivalent(b, a) is equivalent
    assert VERIFIER.equivalent(a, f" {a}") is True
    if b:
        score = _judge(f"\\boxed{{{b}}}", a).score
        assert score == (None if equivalent is None else float(equivalent))


@given(st.text(max_size=30) | st.text("\\{}()[]1,.^_$%=<x -/ie", max_size=30))
def test_any_text_is_cleaned_once_and_for_all(text: str) -> None:
    assert clean(clean(text)) == clean(text)


def test_votes_group_equal_answers_without_a_gold_one() -> None:
    answers = ["\\sqrt{8}", "5", "2\\sqrt{2}", "x=5", "1,3", "13", "(1,2)", "2"]
    groups = group_answers(enumerate(answers), VERIFIER.equivalent)
    assert [[text for _, text in group] for group in groups] == [
        ["\\sqrt{8}", "2\\sqrt{2}"], ["5", "x=5"], ["1,3"], ["13"], ["(1,2)"], ["2"],
    ]  # fmt: skip


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


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=8))
def test_those_that_take_a_worker_too(pairs: list[tuple[int, int]]) -> None:
    states = [
        _state(f"\\boxed{{x + \\sqrt{{{answer}}}}}", f"\\sqrt{{{gold}}} + x") for answer, gold in pairs
    ]
    assert [v.score for v in MathVerifier(20, workers=2).judge(states)] == [
        float(a == g) for a, g in pairs
    ]


def test_it_is_copied_pickled_and_described_by_its_settings() -> None:
    verifier = MathVerifier(seconds=7.0, extraction=extraction.gsm8k, undecided="wrong", workers=2)
    assert verifier.equivalent("2x", "x+x") is True
    for other in (copy.deepcopy(verifier), pickle.loads(pickle.dumps(verifier))):
        assert fingerprint(other) == fingerprint(verifier)
        assert other.equivalent("2x", "x+x") is True
        assert (other.seconds, other.extraction, other.undecided, other.workers) == (
            7.0, extraction.gsm8k, "wrong", 2,
        )  # fmt: skip
    prints = [
        fingerprint(one)
        for one in (MathVerifier(), MathVerifier(7.0), MathVerifier(undecided="wrong"), verifier)
    ]
    assert all(prints.count(one) == 1 for one in prints)
    assert fingerprint(MathVerifier(workers=1)) == fingerprint(MathVerifier(workers=9)), (
        "no verdict differs"
    )


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"seconds": 0.0}, {"seconds": float("inf")}, {"workers": 0}, {"undecided": "right"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            MathVerifier(**wrong)  # type: ignore[arg-type]


def test_no_answer_scores_0_and_no_gold_abstains() -> None:
    assert _judge("forty-two", "42").score == 0.0
    assert _judge("forty-two", None).score is None
    assert _judge("\\boxed{42}", None) == Verdict(None, "42", "the problem has no gold answer")


def test_an_undecided_comparison_abstains_or_counts_as_wrong(caplog: pytest.LogCaptureFixture) -> None:
    text = "\\boxed{9^{9^{9^9}}}"
    verifier = MathVerifier(20)
    with caplog.at_level(logging.WARNING):
        verdict = _judge(text, "5", verifier)
        assert (verdict.score, verdict.answer) == (None, "9^{9^{9^9}}")
        assert "too large to be evaluated" in verdict.reason
        assert _judge(text, "5", MathVerifier(20, undecided="wrong")) == Verdict(
            0.0, verdict.answer, verdict.reason
        )
        for height in range(2, 9):
            verifier.equivalent("5", f"9^{{9^{{9^{{{height}}}}}}}")
    assert len(caplog.records) == 2, "one for each verifier, not one a comparison"
    assert "1 answers could not be compared" in caplog.text


def test_an_answer_longer_than_any_is_not_compared_unless_it_is_the_same() -> None:
    long = "1+" * 2000 + "1"
    assert VERIFIER.equivalent(long, "2001") is None
    assert VERIFIER.equivalent(long, f" {long}") is True


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rftt.verifiers.math.verifier._CACHE_SIZE", 2)
    verifier = MathVerifier(seconds=20)
    for _ in range(2):
        assert [verifier.equivalent("2x", text) for text in ("x+x", "3x", "x2", "4x")] == [
            True, False, True, False,
        ]  # fmt: skip
        assert len(verifier._cache) <= 2
