"""Rows of JSON files, with every number as it was written."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NoReturn

from rftt.problems.readers.rows import Row, decode, read_bytes, read_lines

_LONGEST_INT: Final = 4000
"""Digits; of longer ones Python refuses to make an ``int``, for the time it would take."""

_WHITESPACE: Final = " \t\r\n"


class WrittenFloat(float):
    """A float whose ``str`` is the text it was read from: ``1.50``, not ``1.5``."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> WrittenFloat:
        number = super().__new__(cls, text)
        if not math.isfinite(number):
            raise ValueError(f"{text[:40]} is not a finite number")
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[type[WrittenFloat], tuple[str]]:
        return WrittenFloat, (self.text,)


def _integer(text: str) -> int | Decimal:
    return int(text) if len(text) <= _LONGEST_INT else Decimal(text)


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} is there twice")
    return values


_DECODER: Final = json.JSONDecoder(
    parse_float=WrittenFloat, parse_int=_integer, parse_constant=_constant, object_pairs_hook=_object
)


def read_json_lines(path: Path) -> Iterator[Row]:
    """Yield the objects of a JSON-lines file; blank lines are skipped.

    Raises:
        ValueError: naming the line, for one that is not a JSON object.
    """
    for number, line in read_lines(path):
        text = line.strip(_WHITESPACE)
        if not text:
            continue
        where = f"{path}, line {number}"
        value, end = _decode_value(text, 0, where)
        if end < len(text):
            raise ValueError(f"{where}: not JSON: something follows the object, from column {end + 1}")
        yield Row(where, number, _row(value, where))


def read_json_array(path: Path) -> Iterator[Row]:
    """Yield the objects of a file that holds one JSON array, each with its row and first line.

    Raises:
        ValueError: naming the line, for what is not an array of JSON objects.
    """
    text = decode(read_bytes(path), 1, path)
    position, line = _skip(text, 0), 1
    if text[position : position + 1] != "[":
        hint = (
            '; for one object a line pass format="jsonl"' if text[position : position + 1] == "{" else ""
        )
        raise ValueError(f"{path}, line {1 + text.count(chr(10), 0, position)}: not a JSON array{hint}")
    counted, separator = 0, "["
    for number in itertools.count():
        position = _skip(text, position + 1)
        line += text.count("\n", counted, position)
        counted, where = position, f"{path}, row {number}, line {line}"
        if separator == "[" and text[position : position + 1] == "]":
            break
        value, position = _decode_value(text, position, where)
        yield Row(where, number, _row(value, where))
        position = _skip(text, position)
        separator = text[position : position + 1]
        if separator == "]":
            break
        if separator != ",":
            line += text.count("\n", counted, position)
            raise ValueError(f"{path}, line {line}: not JSON: ',' or ']' expected after an object")
    end = _skip(text, position + 1)
    if end < len(text):
        line = 1 + text.count("\n", 0, end)
        raise ValueError(f"{path}, line {line}: not JSON: something follows the array")


def _decode_value(text: str, position: int, where: str) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except RecursionError as error:
        raise ValueError(f"{where}: nested too deeply to be read") from error
    except json.JSONDecodeError as error:
        # A line holds no other; in an array the row may have begun on a line before.
        line = f"line {error.lineno}, " if "\n" in text else ""
        raise ValueError(f"{where}: not JSON: {error.msg} at {line}column {error.colno}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _row(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: not a JSON object but {type(value).__name__}")
    return value


def _skip(text: str, position: int) -> int:
    while text[position : position + 1] and text[position] in _WHITESPACE:
        position += 1
    return position
