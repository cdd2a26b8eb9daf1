"""Which fields make a problem, what is refused, and golds out of solutions."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import Problem, load_problems
from rftt.problems.fields import Fields
from rftt.problems.gold import after_hashes, last_boxed, whole_number, without_unit
from rftt.problems.loaders import problems_from_dataset
from rftt.problems.sets import (
    AIME,
    AMC,
    ASDIV,
    GSM8K,
    MATH,
    MATH500,
    MAWPS,
    MAWPS_ORIGINAL,
    OLYMPIADBENCH,
    SETS,
    SVAMP,
)  # fmt: skip


def _one(row: Mapping[str, Any], fields: Fields = GSM8K) -> Problem:
    [problem] = problems_from_dataset([row], fields)
    return problem


# Rows made up in the published layouts.
PUBLISHED: list[tuple[Fields, dict[str, Any], Problem]] = [
    (
        MATH,
        {"problem": "Find $x$.", "level": "Level 5", "type": "Algebra",
         "solution": r"First $\boxed{1}$ no, $x = \boxed{\frac{1}{2}}$."},
        Problem("dataset:0", "Find $x$.", r"\frac{1}{2}", {"level": "Level 5", "subject": "Algebra"}),
    ),
    (
        MATH500,
        {"problem": "Find $x$.", "solution": r"\boxed{3}", "answer": "3", "subject": "Geometry",
         "level": 2, "unique_id": "test/geometry/1.json"},
        Problem("test/geometry/1.json", "Find $x$.", "3", {"level": 2, "subject": "Geometry"}),
    ),
    (
        GSM8K,
        {"question": "How many?", "answer": "He has 1+1=<<1+1=2>>2.\n#### 2,125"},
        Problem("dataset:0", "How many?", "2,125"),
    ),
    (AMC, {"id": 0, "problem": "p", "answer": 27.0, "url": "u"}, Problem("0", "p", "27")),
    (AIME, {"id": 60, "problem": "p", "answer": "025", "year": "2024"}, Problem("60", "p", "25")),
    (
        OLYMPIADBENCH,
        {"id": 1, "context": None, "question": "q", "final_answer": ["$3$,$4$"],
         "is_multiple_answer": True, "unit": None, "answer_type": "Numerical", "error": None,
         "subfield": "Algebra", "solution": ["s"]},
        Problem("1", "q", "$3$,$4$", {"subject": "Algebra", "answer_type": "Numerical"}),
    ),
    (
        OLYMPIADBENCH,
        {"id": 2, "context": "Given.", "question": "q", "final_answer": ["3", "4"],
         "is_multiple_answer": True, "unit": "km", "answer_type": "Numerical", "error": "1e-1",
         "subfield": "Algebra"},
        Problem("2", "Given. q", "3,4",
                {"subject": "Algebra", "answer_type": "Numerical", "unit": "km", "error": "1e-1"}),
    ),
    (
        ASDIV,
        {"body": "Two apples.", "question": "How many?", "solution_type": "Sum", "answer": "2  (apples)",
         "formula": "2=2"},
        Problem("dataset:0", "Two apples. How many?", "2",
                {"type": "Sum", "formula": "2=2", "published_answer": "2  (apples)"}),
    ),
    (
        SVAMP,
        {"ID": "chal-1", "Body": "Two apples. ", "Question": "How many?", "Equation": "( 2.0 + 0.0 )",
         "Answer": 2.0, "Type": "Addition"},
        Problem("chal-1", "Two apples. How many?", "2",
                {"type": "Addition", "equation": "( 2.0 + 0.0 )"}),
    ),
    (MAWPS, {"input": "q", "target": 0.6666666667}, Problem("dataset:0", "q", "0.6666666667")),
    (
        MAWPS_ORIGINAL,
        {"iIndex": 3, "sQuestion": "How many ?", "lEquations": ["X=(70.0-27.0)"], "lSolutions": [43.0]},
        Problem("3", "How many ?", "43", {"equations": ["X=(70.0-27.0)"]}),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "row", "problem"), PUBLISHED)
def test_published_rows(fields: Fields, row: dict[str, Any], problem: Problem) -> None:
    assert _one(row, fields) == problem


def test_every_set_is_tried() -> None:
    assert {id(fields) for fields, _, _ in PUBLISHED} == {id(fields) for fields in SETS.values()}


def test_gsm8k_without_its_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k.jsonl"
    path.write_text(json.dumps({"question": "How many?", "answer": "1+1=2\n#### 2"}))
    with pytest.raises(ValueError, match=r"gsm8k\.jsonl, line 1: .*rftt\.problems\.sets\.GSM8K"):
        load_problems(path)
    assert load_problems(path, GSM8K)[0].answer == "2"
    # Whoever wants the whole text says so.
    assert load_problems(path, Fields(gold=str))[0].answer == "1+1=2\n#### 2"


def test_a_solution_with_a_box_is_no_gold_answer() -> None:
    with pytest.raises(ValueError, match=r"row 0: .*gold=rftt\.problems\.gold\.last_boxed"):
        _one({"question": "q", "solution": "\\boxed{2}"}, Fields(answer="solution"))


def test_half_a_question_is_refused() -> None:
    row = {"body": "Two.", "question": "How many?", "solution_type": "Sum", "answer": "2", "formula": ""}
    with pytest.raises(ValueError, match=r"sets\.ASDIV, whose questions have a part in 'body'"):
        problems_from_dataset([row])
    assert problems_from_dataset([row], Fields(id=None))[0].question == "How many?"


@pytest.mark.parametrize(
    ("row", "fields", "hint"),
    [
        ({"Question": "q", "answer": "1"}, Fields(), "did you mean 'Question'?"),
        ({"problem": "q", "answer": "1"}, Fields(), "did you mean 'problem'?; it has those of"),
        ({"problem": "q", "answer": "1"}, Fields(), "rftt.problems.sets.AMC"),
        ({"question": "q", "final_answer": "1"}, Fields(), "did you mean 'final_answer'?"),
        ({"qeustion": "q", "answer": "1"}, Fields(), "did you mean 'qeustion'?"),
        (
            {"question": "q", "answer": "1", "Level": 5},
            Fields(metadata=["level"]),
            "did you mean 'Level'?",
        ),
        ({"xyz": "q"}, Fields(), "the fields are 'xyz'$"),
        ({"input": "q", "target": 1.0}, Fields(), "rftt.problems.sets.MAWPS:"),
    ],
)
def test_a_missing_field_names_the_nearest_and_the_set(
    row: dict[str, Any], fields: Fields, hint: str
) -> None:
    with pytest.raises(ValueError, match=hint.replace("?", r"\?").replace(".", r"\.")) as caught:
        problems_from_dataset([row], fields)
    assert "dataset, row 0: no " in str(caught.value)


class _OwnError(Exception):
    pass


@pytest.mark.parametrize(
    "error", [KeyError("x"), ZeroDivisionError(), RecursionError(), _OwnError("mine")]
)
def test_what_a_reader_or_gold_function_raises_is_named_with_its_line(
    tmp_path: Path, error: Exception
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "1", "answer": "1"}\n{"question": "2", "answer": "2"}\n')

    def fails_on_two(text: str) -> str:
        if text == "2":
            raise error
        return text

    with pytest.raises(ValueError, match=rf"a\.jsonl, line 2: the reader raised {type(error).__name__}"):
        load_problems(path, reader=lambda row: (fails_on_two(row["question"]), "1"))
    with pytest.raises(
        ValueError, match=rf"a\.jsonl, line 2: 'answer': gold raised {type(error).__name__}"
    ):
        load_problems(path, Fields(gold=fails_on_two))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (("q", 5), "the gold answer is 5, which is not text"),
        ((None, "5"), "the question is None, which is not text"),
        (("q", " "), "the gold answer is ' '"),
        ((" ", "5"), "the question is empty"),
        (("q",), "the reader raised ValueError"),
        (None, "the reader raised TypeError"),
    ],
)
def test_what_a_reader_may_not_return(made: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"row 0: .*{message}"):
        problems_from_dataset([{"id": 7}], reader=lambda row: made)


def test_a_reader_makes_question_and_answer_and_fields_the_rest() -> None:
    rows = [{"id": 0, "a": 2, "b": 3, "level": 1}, {"id": 1, "a": 4, "b": 5, "level": None}]
    found = problems_from_dataset(
        rows, Fields(metadata=["level"]), reader=lambda row: (f"{row['a']}+{row['b']}", None)
    )
    assert found == [Problem("0", "2+3", None, {"level": 1}), Problem("1", "4+5", None, {})]


def test_problems_without_gold_are_declared() -> None:
    assert _one({"question": "q", "answer": "1"}, Fields(answer=None)).answer is None


@pytest.mark.parametrize("multiple", [False, None, "true", 1])
def test_several_answers_need_the_word_that_all_are_to_be_given(multiple: object) -> None:
    row = {**PUBLISHED[5][1], "final_answer": ["3", "4"], "is_multiple_answer": multiple}
    with pytest.raises(ValueError, match="'final_answer' holds 2 answers"):
        _one(row, OLYMPIADBENCH)


@pytest.mark.parametrize("bad", [["3", ""], ["3", None], ["3", True], [["3"]]])
def test_each_of_several_answers_must_be_one(bad: list[object]) -> None:
    row = {**PUBLISHED[5][1], "final_answer": bad}
    with pytest.raises(ValueError, match="no gold answer: 'final_answer' is"):
        _one(row, OLYMPIADBENCH)


def test_a_context_that_is_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="'body' is 5, which is not text"):
        _one({**PUBLISHED[7][1], "body": 5}, ASDIV)
    assert _one({**PUBLISHED[7][1], "body": " "}, ASDIV).question == "How many?"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(json_values)
def test_metadata_are_json_as_the_row_has_it(value: Any) -> None:
    metadata = _one({"question": "q", "answer": "1", "x": value}, Fields(metadata={"y": "x"})).metadata
    assert metadata == ({} if value is None else {"y": value})
    assert json.loads(json.dumps(metadata)) == metadata


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), b"x", object(), {1: 2}, [{"a": b""}], "\ud800"]
)
def test_metadata_that_json_does_not_have_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="metadata 'x'"):
        _one({"question": "q", "answer": "1", "x": value}, Fields(metadata=["x"]))


def test_a_mapping_can_be_changed() -> None:
    changed = attrs.evolve(MATH, metadata={}, id="problem")
    assert _one({"problem": "p", "solution": "\\boxed{1}"}, changed) == Problem("p", "p", "1")


# Texts of what LaTeX may put in a box: braces balance or are escaped.
contents = st.recursive(
    st.sampled_from(["x", "5", " ", "\\frac", "\\{", "\\}", "\\\\", "$", "\\,"]),
    lambda inner: inner.map(lambda text: "{" + text + "}") | st.tuples(inner, inner).map("".join),
    max_leaves=8,
)
noise = st.text("ab$ {}\n", max_size=10)


@given(noise, contents, st.text("ab$ \n}", max_size=10), st.sampled_from(["boxed", "fbox"]),
       st.sampled_from(["", " "]))  # fmt: skip
def test_the_last_box_is_found(before: str, content: str, after: str, box: str, gap: str) -> None:
    text = f"{before}\\boxed{{7}} \\{box}{gap}{{{content}}}{after}"
    assert last_boxed(text) == content.strip()


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        (r"\boxed{1} then \boxed{2", "1"),
        (r"\boxed{a \boxed{b} c}", "b"),
        (r"\boxed{a \boxed{b}", "b"),
        (r"so $\boxed 14$.", "14"),
        (r"so $\boxed2$.", "2"),
        (r"$\boxed \frac{1}{2}$ and", r"\frac{1}{2}"),
        (r"\boxedsomething{3} \boxed{4}", "4"),
        (r"\boxed{3} \boxedsomething{4}", "3"),
        (r"\boxed{\text{a\}b}}", r"\text{a\}b}"),
        (r"} \boxed{5}", "5"),
        (r"\\boxed{5} \boxed{6}", "6"),
    ],
)
def test_boxes(text: str, gold: str) -> None:
    assert last_boxed(text) == gold


def test_boxes_take_one_pass() -> None:
    start = time.perf_counter()
    for text in ("\\boxed{" * 200_000, "\\boxed " * 200_000, "\\boxed{1}" * 200_000, "{" * 1_000_000):
        with suppress(ValueError):
            last_boxed(text)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("text", ["", "5", r"\boxed", r"\boxed{5", r"\boxedd{5}", r"\boxed{ }", "#### "])
def test_no_box_no_gold(text: str) -> None:
    with pytest.raises(ValueError, match=r"row 0: ('s': |no gold answer: 's' is)"):
        _one({"problem": "q", "s": text}, Fields("problem", "s", gold=last_boxed))
    with pytest.raises(ValueError, match=r"row 0: ('s': |no gold answer: 's' is)"):
        _one({"problem": "q", "s": text}, Fields("problem", "s", gold=after_hashes))


@given(st.integers(-(10**30), 10**30), st.integers(0, 3), st.sampled_from(["", ".", ".0", ".000"]))
def test_whole_numbers(number: int, zeros: int, end: str) -> None:
    sign = "-" if number < 0 else ""
    assert whole_number(f"{sign}{'0' * zeros}{abs(number)}{end}") == str(number)


@pytest.mark.parametrize("text", ["1.25", "1/2", "2,125", "x", "1e5", "3.", "٣", "", "1 000"])
def test_what_is_no_whole_number_stays(text: str) -> None:
    assert whole_number(text) == ("3" if text == "3." else text)


def test_units() -> None:
    golds = {
        "9 (apples)": "9",
        "14  (seats)": "14",
        "9": "9",
        "5:6": "5:6",
        "(1, 2)": "(1, 2)",
        "Rug B": "Rug B",
    }
    assert {text: without_unit(text) for text in golds} == golds
