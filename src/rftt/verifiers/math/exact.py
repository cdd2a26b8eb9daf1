"""Compare exactly, in this process, what is certainly a number or a list of numbers."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from attrs import frozen

_DIGITS: Final = r"\d{1,60}"
_DECIMAL: Final = rf"(?:{_DIGITS}(?:\.\d{{0,60}})?|\.{_DIGITS})"
_MONEY: Final = r"(?:\\?\$|\u00a3|\u20ac)?\s*"
_NUMBER: Final = re.compile(
    rf"(?:\\approx\s*)?(?P<sign>[+-]?)\s*{_MONEY}(?:"
    rf"(?P<decimal>{_DECIMAL})(?:\s*\\(?:times|cdot)\s*10\s*\^\s*(?:\{{\s*(?P<power>[+-]?\d{{1,3}})\s*\}}|(?P<digit>\d)))?"
    rf"|(?P<whole>{_DIGITS})?\s*\\frac\s*(?:\{{\s*(?P<top>[+-]?{_DIGITS})\s*\}}\s*\{{\s*(?P<bottom>[+-]?{_DIGITS})\s*\}}"
    rf"|(?P<t>\d)\s*(?P<b>\d))"
    rf"|(?P<over>{_DIGITS})\s*/\s*(?P<under>{_DIGITS})"
    rf")\s*(?P<mark>\\%|\^\\circ|_(?:\{{\s*\d{{1,2}}\s*\}}|\d))?\s*\Z"
)
_BRACKETS: Final = {"(": ")", "[": "]"}
_PLACES: Final = 6
_RELATIVE: Final = Fraction(2, 10**6)


@frozen
class Number:
    r"""A number as it was written.

    Attributes:
        value: its exact value; with a base, that of the digits read in base ten.
        mark: ``\%``, ``^\circ``, a base as in ``_8``, or nothing.
        is_decimal: whether it has a decimal point, so that it may be rounded.
    """

    value: Fraction
    mark: str = ""
    is_decimal: bool = False


@frozen
class Numbers:
    """Numbers in brackets, ``(`` or ``[``, or a bare list of them."""

    items: tuple[Number, ...]
    brackets: str = ""


def read(text: str) -> Number | Numbers | None:
    """Read a cleaned answer, ``None`` if it is not certainly a number or a list of numbers."""
    if (number := _read_number(text)) is not None or "," not in text:
        return number
    brackets = ""
    if text[0] in _BRACKETS and text[-1] == _BRACKETS[text[0]]:
        brackets, text = text[0] + text[-1], text[1:-1]
    items = tuple(_read_number(item.strip()) for item in text.split(","))
    known = tuple(item for item in items if item is not None)
    return Numbers(known, brackets) if len(known) == len(items) else None


def _read_number(text: str) -> Number | None:
    found = _NUMBER.match(text)
    if found is None:
        return None
    part = found.groupdict()
    if part["decimal"] is not None:
        value = Fraction(part["decimal"].rstrip(".") or "0")
        value *= Fraction(10) ** int(part["power"] or part["digit"] or 0)
    else:
        bottom = int(part["bottom"] or part["b"] or part["under"])
        if bottom == 0:
            return None
        top = int(part["top"] or part["t"] or part["over"])
        value = int(part["whole"] or 0) + Fraction(top, bottom)
    mark = re.sub(r"[{}\s]", "", part["mark"] or "")
    value = -value if part["sign"] == "-" else value
    return Number(value, mark, "." in (part["decimal"] or ""))


def compare(a: Number | Numbers, b: Number | Numbers) -> bool | None:
    """Compare two answers, ``None`` if that takes more than arithmetic."""
    if isinstance(a, Number) and isinstance(b, Number):
        return _equal(a, b)
    if isinstance(a, Numbers) and isinstance(b, Numbers):
        return _equal_lists(a, b)
    several = a if isinstance(a, Numbers) else b
    assert isinstance(several, Numbers)
    return False if len({item.value for item in several.items}) > 1 else None


def _equal(a: Number, b: Number) -> bool:
    if a.mark == b.mark:
        return _same_value(a, b)
    if r"\%" in (a.mark, b.mark):
        share, other = (a, b) if a.mark == r"\%" else (b, a)
        hundredth = Number(share.value / 100, "", True)
        return not other.mark and (_same_value(share, other) or _same_value(hundredth, other))
    return not (a.mark and b.mark) and _same_value(a, b)


def _same_value(a: Number, b: Number) -> bool:
    """Compare exactly, but for a decimal beside a fraction that none can give: then to six places, and
    for small numbers to six digits, as 0.333333 is 1/3 and 0.333 is not."""
    if a.value == b.value or not (
        (_is_endless(a) and b.is_decimal) or (_is_endless(b) and a.is_decimal)
    ):
        return a.value == b.value
    near = round(a.value, _PLACES) == round(b.value, _PLACES)
    return near and abs(a.value - b.value) <= _RELATIVE * max(abs(a.value), abs(b.value))


def _is_endless(number: Number) -> bool:
    """Whether the number, a fraction, is no finite decimal."""
    bottom = number.value.denominator
    for prime in (2, 5):
        while bottom % prime == 0:
            bottom //= prime
    return bottom != 1


def _equal_lists(a: Numbers, b: Numbers) -> bool | None:
    if any(item.mark for item in (*a.items, *b.items)):
        return None
    if a.brackets == b.brackets and a.brackets:
        if len(a.items) != len(b.items):
            return False
        return all(_same_value(x, y) for x, y in zip(a.items, b.items, strict=True))
    if not a.brackets and not b.brackets:
        first, second = ({item.value for item in one.items} for one in (a, b))
        may_be_rounded = any(item.is_decimal for item in (*a.items, *b.items))
        return True if first == second else None if may_be_rounded else False
    return None
