"""Which fields of a row make a problem."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from numbers import Integral, Real
from typing import Any, Final

from attrs import field, frozen

from rftt.problems.gold import answer_itself
from rftt.problems.problem import Problem

Reader = Callable[[Mapping[str, Any]], tuple[str, str | None]]
"""Maps a row to a question and its gold answer, ``None`` where none is known."""


_SYNONYMS: Final = (
    ("question", "problem", "prompt", "query", "input"),
    ("answer", "final_answer", "expected_answer", "gold", "target", "output", "solution"),
)
"""What sets call the same thing, most usual first."""


class MissingFieldError(ValueError):
    """A row lacks a field that was asked for."""


def _by_name(metadata: Mapping[str, str] | Sequence[str]) -> Mapping[str, str]:
    return dict(metadata) if isinstance(metadata, Mapping) else {name: name for name in metadata}


@frozen
class Fields:
    r"""Declares which fields of a row make a :class:`~rftt.Problem`.

    Ready ones are in :mod:`rftt.problems.sets`; ``attrs.evolve(MATH, id="unique_id")`` changes one.

    Attributes:
        question: the field with the question.
        answer: the field with the answer: text, a number, or a list; ``None`` for problems without gold.
        id: the field with the id; ``None``, or a row without it, makes ``<file>:<line>``, with the row
            instead where a file is not made of lines.
        context: a field with text before the question, joined to it by a space where it is not blank.
        metadata: names in the problem's metadata, each with the field it is read from, or only the
            names of fields. What is null is left out.
        gold: makes the gold answer of the answer's text (see :mod:`rftt.problems.gold`). The default
            refuses a whole solution; ``str`` takes any text.
        multiple: the field that says that a list of answers are all to be given. They are joined by
            commas. Without it a list must hold one answer.
    """

    question: str = "question"
    answer: str | None = "answer"
    id: str | None = "id"
    context: str | None = None
    metadata: Mapping[str, str] = field(factory=dict, converter=_by_name)
    gold: Callable[[str], str] = answer_itself
    multiple: str | None = None

    @property
    def needed(self) -> set[str]:
        """The fields that a row must have."""
        asked = (self.question, self.answer, self.context, self.multiple, *self.metadata.values())
        return {name for name in asked if name is not None}


def problem_from_row(
    row: Mapping[str, Any], fields: Fields, default_id: str, reader: Reader | None = None
) -> Problem:
    """Return the problem of one row.

    Args:
        row: values by the fields' names.
        fields: which of them to take.
        default_id: the id if the row has none.
        reader: replaces what ``fields`` says of question, context and answer.

    Raises:
        MissingFieldError: naming the field that the row lacks, and the one nearest to it.
        ValueError: for a value that no question, answer, id or metadata can be.
    """
    question, gold = _call(reader, row) if reader else (_question(row, fields), _gold(row, fields))
    for name, text in (("question", question), ("gold answer", gold)):
        if not (isinstance(text, str) or (text is None and name == "gold answer")):
            raise ValueError(f"the {name} is {_shown(text)}, which is not text")
    metadata = {name: _json(_get(row, source), name) for name, source in fields.metadata.items()}
    return Problem(
        id=_unicode(_id(row, fields, default_id), "id"),
        question=_unicode(question, "question"),
        answer=None if gold is None else _unicode(_not_blank(gold), "gold answer"),
        metadata={name: value for name, value in metadata.items() if value is not None},
    )


def _call(reader: Reader, row: Mapping[str, Any]) -> tuple[Any, Any]:
    try:
        question, gold = reader(row)
    except Exception as error:
        raise ValueError(f"the reader raised {type(error).__name__}: {error}") from error
    return question, gold


def _question(row: Mapping[str, Any], fields: Fields) -> str:
    question = _get(row, fields.question)
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"no question: {fields.question!r} is {_shown(question)}")
    context = None if fields.context is None else _get(row, fields.context)
    if context is None:
        return question
    if not isinstance(context, str):
        raise ValueError(f"{fields.context!r} is {_shown(context)}, which is not text")
    return f"{context.strip()} {question}" if context.strip() else question


def _gold(row: Mapping[str, Any], fields: Fields) -> str | None:
    if fields.answer is None:
        return None
    value = _get(row, fields.answer)
    answers = [value] if not isinstance(value, list | tuple) else list(value)
    if len(answers) > 1 and not (fields.multiple and _get(row, fields.multiple) is True):
        raise ValueError(
            f"{fields.answer!r} holds {len(answers)} answers, and nothing says that all are to be "
            "given; name the field that does with Fields(multiple=...), or choose one with a reader"
        )
    texts = [_text(answer) for answer in answers]
    if not texts or not all(texts):
        raise ValueError(
            f"no gold answer: {fields.answer!r} is {_shown(value)}; expected text or a finite number. "
            "For problems without gold pass Fields(answer=None)"
        )
    try:
        return ",".join(_not_blank(fields.gold(text)) for text in texts)
    except ValueError as error:
        raise ValueError(f"{fields.answer!r}: {error}") from error
    except Exception as error:
        raise ValueError(f"{fields.answer!r}: gold raised {type(error).__name__}: {error}") from error


def _id(row: Mapping[str, Any], fields: Fields, default_id: str) -> str:
    value = None if fields.id is None else row.get(fields.id)
    if value is None:
        return default_id
    text = _text(value)
    if not text:
        raise ValueError(f"the id in {fields.id!r} is {_shown(value)}; expected text or a number")
    return text


def _text(value: Any) -> str:
    """Return text, or a number as it is written; nothing for what is neither or not finite."""
    if isinstance(value, str):
        # What is missing becomes this text on the way through other tools; in any case it is no answer.
        return "" if value.strip() in ("nan", "NaN") else value.strip()
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        return ""
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else ""
    return str(value) if isinstance(value, Integral) or math.isfinite(value) else ""


def _not_blank(text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"the gold answer is {_shown(text)}")
    return text.strip()


def _unicode(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the {name} holds half of a surrogate pair: {_shown(text)}") from error
    return text


def _json(value: Any, name: str) -> Any:
    """Return a value as JSON has it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _unicode(value, f"metadata {name!r}")
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    if isinstance(value, list | tuple):
        return [_json(item, name) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _json(item, name) for key, item in value.items()}
    raise ValueError(f"the metadata {name!r} is {_shown(value)}, which JSON does not have")


def _get(row: Mapping[str, Any], name: str) -> Any:
    if name in row:
        return row[name]
    lower = {known.lower(): known for known in row}
    alike = [known for names in _SYNONYMS if name.lower() in names for known in names if known in lower]
    near = alike or difflib.get_close_matches(name.lower(), lower, n=1)
    hint = f"; did you mean {lower[near[0]]!r}?" if near else ""
    raise MissingFieldError(f"no {name!r}: the fields are {', '.join(map(repr, row)) or 'none'}{hint}")


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text[:60]}..." if len(text) > 60 else text
