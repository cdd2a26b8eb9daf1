"""Load problems from files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rftt.problems.problem import Problem

Reader = Callable[[Mapping[str, Any]], tuple[str, str]]
"""Maps a line's object to a question and its answer."""


def load_problems(
    path: Path | str,
    *,
    question: str = "question",
    answer: str = "answer",
    id: str | None = "id",
    reader: Reader | None = None,
) -> list[Problem]:
    """Read problems from a JSON-lines file.

    Args:
        path: the file; one JSON object a line, blank lines are skipped.
        question, answer: names of the fields; an answer may be text or a number.
        id: name of the field with the id; where a line has none, it is ``<file name>:<line>``.
        reader: for other layouts: maps a line's object to (question, answer).

    Raises:
        ValueError: naming file and line, for a line that does not parse, or lacks a question or an
            answer.
        FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    problems = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("not a JSON object")
                asked, gold = reader(row) if reader else (_field(row, question), _field(row, answer))
                name = row.get(id) if id else None
                problems.append(Problem(str(name or f"{path.name}:{number}"), asked, gold))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: {_why(error)}") from error
    return problems


def _field(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError(f"no {name!r}: expected text or a number; the line has {sorted(row)}")
    return str(value)


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at column {error.colno}"
    if isinstance(error, KeyError):
        return f"there is no field {error}"
    return str(error)
