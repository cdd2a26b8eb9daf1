r"""Gold answers out of what a data set publishes: a whole solution, a number with its unit.

Each function takes the text of a field and returns the gold answer, or raises :class:`ValueError`
where there is none.
"""

from __future__ import annotations

import re
from typing import Final

_BOX: Final = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*(\{)?|\\.|[{}]", re.DOTALL)
_UNIT: Final = re.compile(r"\s+\([^()]*\)\s*\Z")
_WHOLE: Final = re.compile(r"([+-]?)0*(\d+)(?:\.0*)?\Z")


def answer_itself(text: str) -> str:
    r"""Return the text, which is the answer itself.

    Raises:
        ValueError: if it is a solution that ends with the answer, by ``####`` or ``\boxed``.
    """
    if "####" in text:
        raise ValueError(
            "a whole solution, whose answer follows '####': pass fields=rftt.problems.sets.GSM8K, or "
            "Fields(..., gold=rftt.problems.gold.after_hashes)"
        )
    if "\\boxed" in text:
        raise ValueError(
            "a solution with its answer in \\boxed: pass Fields(..., gold=rftt.problems.gold.last_boxed)"
        )
    return text


def after_hashes(text: str) -> str:
    """Return what follows the last ``####``, as in GSM8K (arXiv 2110.14168).

    Raises:
        ValueError: if there is none.
    """
    _, hashes, answer = text.rpartition("####")
    if not hashes:
        raise ValueError("no '####' before an answer")
    return answer.strip()


def last_boxed(text: str) -> str:
    r"""Return the content of the last ``\boxed{...}`` or ``\fbox{...}`` whose braces balance.

    One pass; an escaped brace is no brace. A box without braces, as MATH has some, reaches to the next
    ``$``, as in the code published with arXiv 2103.03874.

    Raises:
        ValueError: if there is none.
    """
    braces: list[int | None] = []
    start, end = -1, -1
    for token in _BOX.finditer(text):
        if token[1] or token[0] == "{":
            braces.append(token.end() if token[1] else None)
        elif token[0] == "}":
            opened = braces.pop() if braces else None
            if opened is not None and opened > start:
                start, end = opened, token.start()
        elif token[0].startswith(("\\boxed", "\\fbox")):
            start, end = token.end(), -1
    if start < 0:
        raise ValueError("no \\boxed{...}")
    if end < 0:
        dollar = text.find("$", start)
        end = dollar if dollar >= 0 else len(text)
    return text[start:end].strip()


def without_unit(text: str) -> str:
    """Return an answer without the unit in parentheses behind it, as in ASDiv: ``9 (apples)``."""
    return _UNIT.sub("", text).strip()


def whole_number(text: str) -> str:
    """Return a whole number as such, ``27`` for ``27.0`` and ``25`` for ``025``; other text as it is."""
    found = _WHOLE.match(text.strip())
    return f"{found[1].replace('+', '')}{found[2]}" if found else text
