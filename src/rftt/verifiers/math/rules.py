"""Decide, by how two answers are written, what math-verify reads past or gets wrong.

Each rule takes two cleaned answers and is the same whichever comes first.
"""

from __future__ import annotations

import re
from typing import Final

from attrs import frozen

from rftt.verifiers.math.exact import read
from rftt.verifiers.math.text import NUMERALS

_KNOWN_UNITS: Final = {
    spelling: names.split()[0]
    for names in (
        "mm millimeter millimeters millimetre millimetres",
        "cm centimeter centimeters centimetre centimetres",
        "m meter meters metre metres", "km kilometer kilometers kilometre kilometres",
        "in inch inches", "ft foot feet", "yd yard yards", "mi mile miles",
        "mg milligram milligrams", "g gram grams", "kg kilogram kilograms",
        "lb lbs pound pounds", "oz ounce ounces",
        "ml milliliter milliliters", "l liter liters litre litres",
        "s sec second seconds", "min minute minutes", "h hr hour hours", "day days", "week weeks",
        "month months", "year years", "am a.m. a.m", "pm p.m. p.m", "m/s", "km/h", "mph",
        "degree", "dollar dollars $ usd", "cent cents", "euro euros \u20ac", "\u00a3",
    )
    for spelling in names.split()
}  # fmt: skip
"""Units that two answers cannot differ in and be the same."""

_POWER: Final = r"\s*(?:\^\s*(?:\{\s*([23])\s*\}|([23])))?\Z"
_TEXT_UNIT: Final = re.compile(
    r"(.*[\w})])\s*\\(?:text|mathrm)\{\s*([A-Za-z][A-Za-z ./-]{0,39}?)\s*\}" + _POWER
)
_WORD_UNIT: Final = re.compile(
    r"(.*?(?:[\d})]|\\pi))\s*((?<= )[A-Za-z][A-Za-z ./]{2,39}"
    r"|(?<= )[mgslh](?![A-Za-z])|(?:mm|cm|km|mi|in|ft|yd|kg|lb|oz|mph|am|pm|[ap]\.m\.?)(?![A-Za-z])\.?)"
    + _POWER
)
_MONEY: Final = re.compile(r"(\\?\$|\u00a3|\u20ac)\s*(?=[\d.])(.*)\Z")
_CLOCK: Final = re.compile(r"\d{1,2}:\d{2}\Z")
_NOT_A_UNIT: Final = {
    "i", "e", "and", "or", "if", "mod", "even", "odd", "sin", "cos", "tan", "log", "ln", "exp", "sqrt",
    "pi", "theta", "alpha", "beta",
}  # fmt: skip

_BASE: Final = re.compile(r"(-?[0-9][0-9A-Fa-f]*)\s*_\s*(?:\{\s*(?:\\text\{\s*)?(\w+)\s*\}*|(\d))\Z")
_LETTER: Final = re.compile(r"(?:\\text\{)?\s*\(?([A-Z])\)?\s*\}?\Z")
_CHOICE: Final = re.compile(r"(?:\\text\{)?\s*\(?([A-Z])\s*[):.]\s*\}?\s*[^\s)}]")
_RELATION: Final = re.compile(
    r"(\\leq?slant|\\geq?slant|\\leq?|\\geq?|\\lt|\\gt|\\neq?|<=?|>=?)(?![A-Za-z])\s*(.+)\Z"
)
_ONLY_TEXTS: Final = re.compile(r"\\(?:[lc]?dots|dotsc|forall|exists)(?![A-Za-z])|\.\.\.")
_BRACES: Final = re.compile(r"\\\{(.*)\\\}\Z")
_TEXT: Final = re.compile(r"\\text\{([^{}]*)\}\Z")
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z '.-]*\Z")
_ANGLE: Final = re.compile(r"([+-]?\d+(?:\.\d+)?)\^\\circ\Z")


@frozen
class Pair:
    """Two answers to compare, or what a rule decided of them.

    Attributes:
        a: one answer, as it is to be compared.
        b: the other.
        is_equal: what was decided, ``None`` if nothing was.
    """

    a: str
    b: str
    is_equal: bool | None = None


def apply_rules(a: str, b: str) -> Pair:
    """Apply all rules to two cleaned answers, until one decides."""
    pair = Pair(a, b)
    for rule in (_units, _bases, _choices, _relations, _texts, _words, _brackets, _angles):
        pair = rule(pair.a, pair.b)
        if pair.a == pair.b and pair.is_equal is None:
            return Pair(pair.a, pair.b, True)
        if pair.is_equal is not None:
            return pair
    return pair


def _units(a: str, b: str) -> Pair:
    """Take off units; two known units that differ make a difference."""
    (a, a_unit), (b, b_unit) = _split_unit(a), _split_unit(b)
    differ = a_unit != b_unit and all(
        unit.split("^")[0] in _KNOWN_UNITS.values() for unit in (a_unit, b_unit)
    )
    return Pair(a, b, False if differ else None)


def _split_unit(text: str) -> tuple[str, str]:
    if money := _MONEY.match(text):
        return money[2], _KNOWN_UNITS.get(money[1].lstrip("\\"), "")
    if text.endswith("^\\circ"):
        return text, "degree"
    found = _TEXT_UNIT.match(text)
    is_certain = found is not None
    if found is None:
        found = _WORD_UNIT.match(text)
        if found is None:
            return text, ""
        is_certain = read(found[1]) is not None or _CLOCK.match(found[1]) is not None
    words = found[2].strip(" ").lower().split()
    if words[0] in ("square", "sq", "sq.", "cubic"):
        power = "3" if words.pop(0) == "cubic" else "2"
    else:
        power = found[3] or found[4] or ""
    unit = _KNOWN_UNITS.get(" ".join(words), "?")
    # Letters behind anything but a number may be names.
    if (
        not words
        or _NOT_A_UNIT & set(words)
        or not (is_certain or unit != "?" or words[0] in ("unit", "units"))
    ):
        return text, ""
    return found[1].strip(), f"{unit}^{power}" if power else unit


def _bases(a: str, b: str) -> Pair:
    """Compare digits in a base with digits in the same base, or with digits in none that is said."""
    found = [_BASE.match(text) for text in (a, b)]
    digits, bases = [], []
    for text, match in zip((a, b), found, strict=True):
        digits.append((match[1] if match else text).upper())
        base = (match[2] or match[3]).lower() if match else ""
        bases.append(str(NUMERALS.get(base, base)))
    if found == [None, None] or not all(re.fullmatch(r"-?[0-9A-F]+", text) for text in digits):
        return Pair(a, b)
    agree = bases[0] == bases[1] or "" in bases
    return Pair(a, b, agree and digits[0].lstrip("0") == digits[1].lstrip("0"))


def _choices(a: str, b: str) -> Pair:
    """Compare a letter with a letter and its choice: ``E`` with ``E: a risk score``."""
    for one, other in ((a, b), (b, a)):
        if (letter := _LETTER.match(one)) and (choice := _CHOICE.match(other)):
            return Pair(a, b, letter[1] == choice[1])
    return Pair(a, b)


def _relations(a: str, b: str) -> Pair:
    r"""Compare what begins with a relation, as ``\le 12`` does, only with what begins with the same."""
    first, second = _RELATION.match(a), _RELATION.match(b)
    if first is None and second is None:
        return Pair(a, b)
    if first is None or second is None or _kind(first[1]) != _kind(second[1]):
        return Pair(a, b, False)
    return Pair(first[2], second[2])


def _kind(relation: str) -> str:
    name = {"<": "lt", ">": "gt", "<=": "le", ">=": "ge"}.get(relation, relation.lstrip("\\"))
    return name[:2]


def _texts(a: str, b: str) -> Pair:
    """Compare by their texts what has an ellipsis or a quantifier: nothing else can be read in them."""
    if _ONLY_TEXTS.search(a) or _ONLY_TEXTS.search(b):
        first, second = (re.sub(r"\s+|\\[lc]dots|\\dotsc?|\.\.\.", "", text) for text in (a, b))
        return Pair(a, b, first == second)
    return Pair(a, b)


def _words(a: str, b: str) -> Pair:
    r"""Compare ``\text{...}`` with words by their letters; a number is not a word."""
    texts = [_TEXT.match(text) for text in (a, b)]
    if texts == [None, None]:
        return Pair(a, b)
    inside = [found[1].strip() if found else text for found, text in zip(texts, (a, b), strict=True)]
    if _spelled(inside[0]) == _spelled(inside[1]):
        return Pair(a, b, True)
    words = [bool(_WORD.match(text)) for text in inside]
    if all(words):
        first, second = (re.sub(r"[^a-z]", "", text.lower()) for text in inside)
        return Pair(a, b, first == second)
    numbers = [read(text) is not None for text in inside]
    if any(words) and any(numbers):
        return Pair(a, b, False)
    return Pair(a, b)


def _spelled(text: str) -> str:
    return re.sub(r"\s+", "", text).lower()


def _brackets(a: str, b: str) -> Pair:
    r"""Tell a set of several, ``\{1, 2\}``, from a tuple or an interval, ``(1, 2)``."""
    for one, other in ((a, b), (b, a)):
        braces = _BRACES.match(one)
        if (
            braces
            and _top_commas(braces[1])
            and other[:1] in "(["
            and other[-1:] in ")]"
            and _is_one_group(other)
        ):
            return Pair(a, b, False)
    return Pair(a, b)


def _is_one_group(text: str) -> bool:
    """Whether the bracket at the beginning is closed by the one at the end."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if depth == 0:
            return place == len(text) - 1
    return False


def _top_commas(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            return True
    return False


def _angles(a: str, b: str) -> Pair:
    r"""Write degrees in radians where the other answer has a ``\pi``."""
    first, second = _ANGLE.match(a), _ANGLE.match(b)
    if first and "\\pi" in b:
        return Pair(f"\\frac{{{first[1]} \\pi}}{{180}}", b)
    if second and "\\pi" in a:
        return Pair(a, f"\\frac{{{second[1]} \\pi}}{{180}}")
    return Pair(a, b)
