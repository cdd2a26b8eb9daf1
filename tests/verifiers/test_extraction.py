"""Extraction: where the answer stands in a solution's text."""

from __future__ import annotations

import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import MathVerifier, Problem, State, Step
from rftt.fingerprint import fingerprint
from rftt.verifiers.extraction import (
    Extraction,
    all_boxed,
    answer_is,
    answer_tags,
    boxed,
    choice,
    first_of,
    gsm8k,
    last_number,
)

ALL: list[Extraction] = [
    boxed, all_boxed, gsm8k, answer_is, answer_tags, choice, last_number, first_of(boxed, answer_is),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so \\boxed{12}", "12"),
        ("\\boxed{1} no, \\boxed{ 2 }", "2"),
        ("\\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{3} and \\boxed{4", "3"),
        ("\\boxed{}", None),
        ("\\boxed{5} then \\boxed{}", None),
        ("12", None),
        ("\\boxed", None),
        ("\\boxed {5}", "5"),
        ("\\boxed5.", "5"),
        ("\\boxed\\pi", "\\pi"),
        ("\\fbox{5} or so", "5"),
        ("\\framebox{5}", "5"),
        ("\\boxedfoo{5}", None),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{\\left\\{x : x > 2\\right.}", "\\left\\{x : x > 2\\right."),
        ("\\boxed{x = \\boxed{5}}", "5"),
        ("so \\boxed{5", "5"),
        ("so $\\boxed{5$.\nAnd so on", "5"),
        ("\\boxed{3}, \\boxed{5}, \\boxed{7}.", "3, 5, 7"),
        ("$\\boxed{3}$ or $\\boxed{4}$", "3, 4"),
        ("\\boxed{3}, \\boxed{3}", "3"),
        ("\\boxed{2}. wait, actually \\boxed{3}", "3"),
        ("\\boxed{1}, \\boxed{2}. No: \\boxed{3}, \\boxed{4}", "3, 4"),
    ],
)
def test_boxed(text: str, expected: str | None) -> None:
    assert boxed(text) == expected


_CONTENT = st.recursive(
    st.text("ab1 ,", min_size=1).map(str.strip).filter(bool)
    | st.sampled_from(["\\{", "\\}", "\\pi ", "\\\\"]),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda parts: "{" + "".join(parts) + "}"),
    max_leaves=6,
)


@given(_CONTENT, st.text("{}\\ab $", max_size=10), st.text("ab .$", max_size=10))
def test_a_box_gives_what_was_put_in_it(content: str, before: str, after: str) -> None:
    text = f"{before} \\boxed{{{content}}} {after}"
    assert boxed(text) == content.strip()


@pytest.mark.parametrize(
    ("extract", "text", "expected"),
    [
        (all_boxed, "\\boxed{3} is one. The other is \\boxed{5}", "3, 5"),
        (all_boxed, "none", None),
        (gsm8k, "2+3=<<2+3=5>>5\n#### 5", "5"),
        (gsm8k, "#### 1\n#### 1,234 \nmore", "1,234"),
        (gsm8k, "5", None),
        (answer_is, "The answer is 5.", "5"),
        (answer_is, "The answer is 3.5. I hope so", "3.5"),
        (answer_is, "My answer: 4\nFinal Answer: **73**", "73"),
        (answer_is, "The answer is $x = 5$", "$x = 5$"),
        (answer_is, "no answer here", None),
        (answer_tags, "<answer>4</answer> no <answer> 5 </answer>", "5"),
        (answer_tags, "<answer>5", None),
        (answer_tags, "</answer>5<answer>", None),
        (choice, "It is (B), not (C). So (B)", "B"),
        (choice, "The answer is C", "C"),
        (choice, "so\nD.\n", "D"),
        (choice, "A train leaves", None),
        (last_number, "5-3=2, so 1,234.50 in all", "1,234.50"),
        (last_number, "from 7 to -3", "-3"),
        (last_number, "3/4 of it", "3/4"),
        (last_number, "none", None),
    ],
)
def test_ready_made(extract: Extraction, text: str, expected: str | None) -> None:
    assert extract(text) == expected


def test_the_first_that_finds_an_answer_gives_it() -> None:
    extract = first_of(boxed, gsm8k, last_number)
    assert [extract(text) for text in ("\\boxed{1} 2", "1\n#### 2\n3", "4 and 5", "x")] == [
        "1",
        "2",
        "5",
        None,
    ]


@pytest.mark.parametrize("extract", ALL)
def test_a_verifier_keeps_its_extraction_in_copies_and_tells_it_apart(extract: Extraction) -> None:
    verifier = MathVerifier(extraction=extract)
    copy = pickle.loads(pickle.dumps(verifier))
    assert fingerprint(copy) == fingerprint(verifier)
    others = [MathVerifier(extraction=other) for other in ALL if other is not extract]
    assert all(fingerprint(other) != fingerprint(verifier) for other in others)


def test_only_the_last_step_counts() -> None:
    steps = [Step("next_step", text, (), (), (), terminal=False) for text in ("#### 4", "#### 5")]
    verifier = MathVerifier(extraction=gsm8k)
    for taken, score in ((steps, 1.0), (steps[:1], 0.0), ([], 0.0)):
        (verdict,) = verifier.judge([State(Problem("p", "?", "5"), tuple(taken))])
        assert verdict.score == score


HOSTILE = [
    "\\boxed{" * 5000, "\\boxed{1}, " * 4000, "\\boxed" * 5000, "{" * 35_000, "}" * 35_000,
    "\\boxed{" * 2500 + "}" * 2500, "\\" * 35_000, "\\boxed{1}" + " " * 35_000 + "\\boxed{2}",
    "\\boxed" + " " * 35_000, "answer is " * 3500, "answer" + " " * 35_000, "<answer>" * 4000,
    "1," * 17_000, "1" * 35_000, "- " * 17_000, "(A" * 17_000, "**A" * 11_000, " \t" * 17_000,
    "#### " * 7000,
]  # fmt: skip


@pytest.mark.parametrize("extract", ALL)
def test_time_grows_with_the_text_and_no_faster(extract: Extraction) -> None:
    start = time.process_time()
    for text in HOSTILE:
        extract(text)
    assert time.process_time() - start < 3, "seconds for 19 texts of some 35 kB"
