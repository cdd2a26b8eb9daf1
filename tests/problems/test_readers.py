"""Every format gives the same problems, and every fault is named with its file and line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from rftt import Problem, load_problems
from rftt.problems.fields import Fields
from rftt.problems.readers.json_rows import WrittenFloat

GOOD = '{"question": "1+1", "answer": "2"}'

words = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
answers = words.filter(lambda text: text.strip() and text.strip() not in ("nan", "NaN"))
# CSV readers take a lone carriage return for a new line, and csv cannot hold a NUL.
tables = st.lists(
    st.tuples(
        words.filter(lambda text: text.strip()), answers.filter(lambda a: "####" not in a), words
    ).filter(lambda row: "\r" not in "".join(row) and "\x00" not in "".join(row)),
    min_size=1,
    max_size=5,
)


def _write(path: Path, rows: list[dict[str, Any]], kind: str) -> None:
    if kind == "parquet":
        buffer = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(rows), buffer)
        data = buffer.getvalue()
    elif kind == "csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
        data = text.getvalue().encode()
    elif kind == "json":
        data = json.dumps(rows, indent=1).encode()
    else:
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(table=tables)
def test_all_formats_give_the_same_problems(tmp_path: Path, table: list[tuple[str, str, str]]) -> None:
    rows = [
        {"question": asked, "answer": gold, "id": f"n{i}", "note": note}
        for i, (asked, gold, note) in enumerate(table)
    ]
    expected = [
        Problem(f"n{i}", asked, gold.strip(), {"note": note})
        for i, (asked, gold, note) in enumerate(table)
    ]
    for kind in ("jsonl", "json", "csv", "parquet"):
        for end in ("", ".gz"):
            path = tmp_path / f"set.{kind}{end}"
            _write(path, rows, kind)
            assert load_problems(path, Fields(metadata=["note"])) == expected, path.name


def test_a_suffix_can_be_overruled_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    path.write_text(GOOD)
    with pytest.raises(ValueError, match=r"some\.txt: the name does not say .* pass format="):
        load_problems(path)
    assert load_problems(path, format="jsonl") == [Problem("some.txt:1", "1+1", "2")]
    with pytest.raises(ValueError, match="unknown format 'xml'"):
        load_problems(path, format="xml")  # type: ignore[arg-type]


def test_a_byte_order_mark_and_blank_lines_are_left_out(tmp_path: Path) -> None:
    for name, text in (
        ("a.jsonl", f"\n{GOOD}\r\n \n{GOOD}"),
        ("a.json", f"\n[{GOOD},\n\n{GOOD}]"),
        ("a.csv", "question,answer\r\n1+1,2\n\n1+1,2\n"),
    ):
        path = tmp_path / name
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        found = load_problems(path)
        assert [p.id for p in found] == (
            [f"{name}:0", f"{name}:1"] if name == "a.json" else [f"{name}:2", f"{name}:4"]
        )
        assert {(p.question, p.answer) for p in found} == {("1+1", "2")}


def test_a_separator_within_a_text_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "a\u2028b\x85c", "answer": "2"}\n' + GOOD, encoding="utf-8")
    assert [p.question for p in load_problems(path)] == ["a\u2028b\x85c", "1+1"]
    path = tmp_path / "a.csv"
    path.write_text('question,answer\n"two\nlines",2\nnext,3\n')
    assert [(p.id, p.question) for p in load_problems(path)] == [
        ("a.csv:2", "two\nlines"),
        ("a.csv:4", "next"),
    ]


FAULTS: list[tuple[str, bytes, str]] = [
    # JSON lines; the first line is good.
    ("jsonl", b"{", "line 2: not JSON: .* at column 2"),
    ("jsonl", b'{"question": }', "line 2: not JSON: .* at column 14"),
    ("jsonl", b"[1]", "line 2: not a JSON object but list"),
    ("jsonl", b'{"question": "1"} {}', "line 2: not JSON: something follows the object, from column 18"),
    ("jsonl", b'{"question": "\xff"}', r"line 2: not UTF-8: byte 0xff, the 15\."),
    ("jsonl", b"[" * 100_000, "line 2: nested too deeply"),
    ("jsonl", b'{"a":' * 100_000, "line 2: nested too deeply"),
    ("jsonl", b'{"question": "1", "question": "2"}', "line 2: the field 'question' is there twice"),
    ("jsonl", b'{"question": "1+1", "answer": NaN}', "line 2: NaN is not a finite number"),
    ("jsonl", b'{"question": "1+1", "answer": -Infinity}', "line 2: -Infinity is not a finite"),
    ("jsonl", b'{"question": "1+1", "answer": 1e400}', "line 2: 1e400 is not a finite number"),
    ("jsonl", b'{"question": "1+1", "answer": true}', "line 2: no gold answer: 'answer' is True"),
    ("jsonl", b'{"question": "1+1", "answer": null}', "line 2: no gold answer: 'answer' is None"),
    ("jsonl", b'{"question": "1+1", "answer": " "}', "line 2: no gold answer: 'answer' is ' '"),
    ("jsonl", b'{"question": "1+1", "answer": "nan"}', "line 2: no gold answer: 'answer' is 'nan'"),
    ("jsonl", b'{"question": "1+1", "answer": {}}', "line 2: no gold answer: 'answer' is {}"),
    ("jsonl", b'{"question": "1+1", "answer": []}', r"line 2: no gold answer: 'answer' is \[\]"),
    ("jsonl", b'{"question": "1+1", "answer": [2, 3]}', "line 2: 'answer' holds 2 answers"),
    ("jsonl", b'{"question": "1+1"}', "line 2: no 'answer': the fields are 'question'"),
    ("jsonl", b'{"answer": "2"}', "line 2: no 'question'"),
    ("jsonl", b'{"question": " ", "answer": "2"}', "line 2: no question: 'question' is ' '"),
    ("jsonl", b'{"question": 5, "answer": "2"}', "line 2: no question: 'question' is 5"),
    ("jsonl", b'{"question": "\\ud800", "answer": "2"}', "line 2: the question holds half"),
    ("jsonl", b'{"question": "a", "answer": "\\udc00"}', "line 2: the gold answer holds half"),
    ("jsonl", b'{"question": "a", "answer": "2", "id": ""}', "line 2: the id in 'id' is ''"),
    ("jsonl", b'{"question": "a", "answer": "2", "id": false}', "line 2: the id in 'id' is False"),
    # JSON arrays.
    ("json", GOOD.encode(), 'line 1: not a JSON array; for one object a line pass format="jsonl"'),
    ("json", b"\n 5", "line 2: not a JSON array$"),
    ("json", b"", "line 1: not a JSON array$"),
    ("json", f"[{GOOD},\n\n5]".encode(), "line 3: not a JSON object but int"),
    ("json", f"[{GOOD}\n\n{GOOD}]".encode(), "line 3: not JSON: ',' or ']' expected"),
    ("json", f"[{GOOD},\n]".encode(), "row 1, line 2: not JSON: Expecting value at line 2, column 1"),
    ("json", b'[\n{"question": "1",\n\n"a" 5}]', "row 0, line 2: not JSON: .* at line 4, column 5"),
    ("json", f"[\n{GOOD}".encode(), "line 2: not JSON: ',' or ']' expected"),
    ("json", f"[{GOOD}]\n\n.".encode(), "line 3: not JSON: something follows the array"),
    ("json", f'[{GOOD},\n{{"a":"\xff"}}]'.encode("latin-1"), r"line 2: not UTF-8: byte 0xff, the 7\."),
    ("json", b"[" * 100_000, "line 1: nested too deeply"),
    ("json", f"[{GOOD},\n\n{{}}]".encode(), "line 3: no 'question': the fields are none"),
    # CSV.
    ("csv", b"question,answer\n1+1,2\n1+1\n", "line 3: 1 values for 2 fields"),
    ("csv", b"question,answer\n1+1,2,3\n", "line 2: 3 values for 2 fields"),
    ("csv", b"question,question\n1,2\n", "line 1: the header needs a name of its own"),
    ("csv", b"question,,answer\n1,2,3\n", "line 1: the header needs a name of its own"),
    ("csv", b'question,answer\n1,2\n"1,2\n\n\n', "line 3: not CSV"),
    ("csv", b"question,answer\n1,2\n1,\xff\n", "line 3: not UTF-8"),
    ("csv", b"question,answer\n1+1,\n", "line 2: no gold answer: 'answer' is ''"),
    ("csv", b"question,answer\r1+1,2\r", "line 1: not CSV"),
    # Parquet.
    ("parquet", b"PAR1 and something else", "not Parquet"),
    ("parquet", b"", "not Parquet"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "data", "message"), FAULTS)
def test_a_fault_is_named_with_file_and_line(
    tmp_path: Path, kind: str, data: bytes, message: str
) -> None:
    path = tmp_path / f"bad.{kind}"
    path.write_bytes(GOOD.encode() + b"\n" + data if kind == "jsonl" else data)
    with pytest.raises(ValueError, match=rf"bad\.{kind}, .*{message}"):
        load_problems(path)
    # And behind gzip just the same.
    path = tmp_path / f"bad.{kind}.gz"
    path.write_bytes(gzip.compress(GOOD.encode() + b"\n" + data if kind == "jsonl" else data))
    with pytest.raises(ValueError, match=rf"bad\.{kind}\.gz, .*{message}"):
        load_problems(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=60), kind=st.sampled_from(["jsonl", "json", "csv", "parquet"]))
def test_whatever_the_bytes_there_are_problems_or_a_named_file(
    tmp_path: Path, data: bytes, kind: str
) -> None:
    path = tmp_path / f"any.{kind}"
    path.write_bytes(data)
    try:
        found = load_problems(path)
    except ValueError as error:
        found, message = [], str(error)
        named = str(path) in message
    else:
        named = True
    assert named
    assert all(problem.question.strip() for problem in found)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize("damage", ["cut", "changed", "plain"])
def test_a_damaged_gzip_is_named(tmp_path: Path, kind: str, damage: str) -> None:
    path = tmp_path / f"set.{kind}.gz"
    _write(path, [{"question": f"{i}+{i}", "answer": str(2 * i)} for i in range(50)], kind)
    data = path.read_bytes()
    path.write_bytes(
        {
            "cut": data[: len(data) // 2],
            "changed": data[:-6] + bytes([data[-6] ^ 1]) + data[-5:],
            "plain": GOOD.encode(),
        }[damage]
    )
    with pytest.raises(ValueError, match=rf"set\.{kind}\.gz.*: not gzip to its end"):
        load_problems(path)


def test_a_file_without_problems_a_folder_and_no_file_are_named(tmp_path: Path) -> None:
    for name, text in (("a.jsonl", ""), ("a.json", "[]"), ("a.csv", "question,answer\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"{re.escape(name)}: no problems in it"):
            load_problems(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl"):
        load_problems(tmp_path / "none.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(ValueError, match=r"is a folder; .* load_dataset_problems"):
        load_problems(tmp_path / "folder.jsonl")


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_an_id_given_twice_is_refused_naming_both(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"set.{kind}"
    rows: list[dict[str, Any]] = [{"id": i, "question": "1+1", "answer": 2} for i in (0, 1, 0)]
    _write(path, rows, kind)
    first, second = {
        "jsonl": ("line 1", "line 3"),
        "csv": ("line 2", "line 4"),
        "json": ("row 0, line 2", "row 2, line 12"),
        "parquet": ("row 0", "row 2"),
    }[kind]
    with pytest.raises(ValueError, match=rf"{second}: the id '0' is that of .*set\.{kind}, {first} too"):
        load_problems(path)
    numbered = load_problems(path, Fields(id=None))
    assert len({p.id for p in numbered}) == 3
    _write(path, rows[:2], kind)
    assert [p.id for p in load_problems(path)] == ["0", "1"]


def test_a_made_id_may_not_be_that_of_another_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "1", "answer": "2", "id": "a.jsonl:2"}\n' + GOOD)
    with pytest.raises(ValueError, match=r"line 2: the id 'a\.jsonl:2' is that of .*, line 1"):
        load_problems(path)


numerals = st.one_of(
    st.integers().map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
    st.integers(4000, 5000).map(lambda digits: "7" * digits),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts=st.lists(numerals, min_size=1, max_size=4))
def test_a_number_is_taken_as_it_is_written(tmp_path: Path, texts: list[str]) -> None:
    # Python's int has no minus zero, and no other numeral is read as anything but itself.
    texts = [text for text in texts if text != "-0"] or ["1"]
    rows = [f'{{"question": "1+1", "answer": {text}}}' for text in texts]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    (tmp_path / "a.json").write_text("[" + ",".join(rows) + "]")
    for name in ("a.jsonl", "a.json"):
        assert [p.answer for p in load_problems(tmp_path / name)] == texts


def test_a_number_that_remembers_its_text_is_a_number() -> None:
    number = WrittenFloat("1.50")
    assert (number, str(number), f"{number}", number + 1) == (1.5, "1.50", "1.50", 2.5)
    assert str(pickle.loads(pickle.dumps(number))) == "1.50"


def test_numbers_of_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {
        "question": pa.array(["q"] * 3),
        "short": pa.array([3.3, 0.1, 16777216], pa.float32()),
        "half": pa.array([0.1, 2, 3], pa.float16()),
        "long": pa.array([0.1, 1e22, 3.0], pa.float64()),
        "whole": pa.array([1, 2**63 - 1, -5], pa.int64()),
        "decimal": pa.array([Decimal("1.50"), Decimal("2.00"), Decimal("-0.01")], pa.decimal128(38, 2)),
        "listed": pa.array([[3.3], [1], [0.1]], pa.list_(pa.float32())),
    }
    parquet.write_table(pa.table(columns), path)
    expected = {
        "short": ["3.3", "0.1", "16777216.0"],
        "half": ["0.1", "2.0", "3.0"],
        "long": ["0.1", "1e+22", "3.0"],
        "whole": ["1", "9223372036854775807", "-5"],
        "decimal": ["1.50", "2.00", "-0.01"],
        "listed": ["3.3", "1.0", "0.1"],
    }
    for name, golds in expected.items():
        assert [p.answer for p in load_problems(path, Fields(answer=name))] == golds


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_parquet_row_without_a_finite_number_is_refused(tmp_path: Path, value: float | None) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"question": ["a", "b"], "answer": [1.0, value]}), path)
    with pytest.raises(ValueError, match=r"a\.parquet, row 1: no gold answer"):
        load_problems(path)
