"""Find the answer in a solution's text: boxed, after ``####``, in tags, a choice, the last number.

An extraction is any callable from a text to the answer in it, as the model wrote it, or ``None``. Each
one here reads the text once, so its time grows with the length of the text and no faster.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from attrs import frozen

Extraction = Callable[[str], str | None]
"""``extract(text)``: the answer in a solution's text, ``None`` if it holds none."""

_TOKENS: Final = re.compile(
    r"\\(?P<box>boxed|fbox|framebox)(?![A-Za-z])\s*(?P<brace>\{|(?P<bare>\\[A-Za-z]+|[^\s{}\\$]))?"
    r"|\\."
    r"|(?P<open>\{)|(?P<close>\})",
    re.DOTALL,
)
"""A box with its brace or its one bare token, an escaped character, a brace."""

_IN_A_ROW: Final = re.compile(r"[\s$]*(?:[,;]\s*(?:and|or)?|and|or|\\text\{\s*(?:and|or)\s*\})[\s$]*")
_LONGEST_GAP: Final = 40

_ANSWER_IS: Final = re.compile(r"\banswer\b\s*(?:is\b\s*:?|[:=])[\s*]*", re.IGNORECASE)
_END_OF_SENTENCE: Final = re.compile(r"\.(?=\s|\Z)|\n")

_CHOICE: Final = re.compile(
    r"\((?P<a>[A-H])\)|\*\*(?P<b>[A-H])[.):]?\*\*"
    r"|\b(?:[Aa]nswer|[Oo]ption|[Cc]hoice)\b(?: is)?:? ?(?P<c>[A-H])\b"
    r"|^[ \t]*(?P<d>[A-H])[.):]?[ \t]*$",
    re.MULTILINE,
)

_NUMBER: Final = re.compile(
    r"(?:(?<![\w.)])[-\u2212])?(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+)(?:/[0-9]+)?(?![0-9])"
)


@frozen
class _Box:
    start: int
    end: int
    content: str


def boxed(text: str) -> str | None:
    r"""Return the content of the last box, ``None`` if there is none or if it is empty.

    A box is ``\boxed``, ``\fbox`` or ``\framebox``, of a group in braces or of one token, as in
    ``\boxed5``. An escaped brace, as in ``\boxed{\{1, 2\}}``, is content. Boxes in a row, as in
    ``\boxed{3}, \boxed{5} and \boxed{7}``, are one list: ``3, 5, 7``. Where no box is ever closed, the
    content of the last one goes on to the end of its line.
    """
    boxes, unclosed = _boxes(text)
    if not boxes:
        return unclosed
    row = [boxes[-1].content]
    for before, after in pairwise(reversed(boxes)):
        gap = text[after.end : before.start] if before.start - after.end <= _LONGEST_GAP else ""
        if not _IN_A_ROW.fullmatch(gap):
            break
        row.append(after.content)
    return _joined(row[::-1])


def all_boxed(text: str) -> str | None:
    """Return the contents of all boxes as one list, wherever they stand; ``None`` if none has any."""
    boxes, unclosed = _boxes(text)
    return _joined([box.content for box in boxes]) if boxes else unclosed


def _joined(contents: list[str]) -> str | None:
    return ", ".join(dict.fromkeys(content for content in contents if content)) or None


def _boxes(text: str) -> tuple[list[_Box], str | None]:
    """Return the closed boxes by where they start, and the content of a last one that is not closed."""
    boxes: list[_Box] = []
    opened: list[tuple[int, int] | None] = []
    for token in _TOKENS.finditer(text):
        if token["bare"]:
            boxes.append(_Box(token.start(), token.end(), token["bare"]))
        elif token["brace"]:
            opened.append((token.start(), token.end()))
        elif token["open"]:
            opened.append(None)
        elif token["close"] and opened and (box := opened.pop()) is not None:
            boxes.append(_Box(box[0], token.end(), text[box[1] : token.start()].strip()))
    last = next((box for box in reversed(opened) if box is not None), None)
    if last is None or boxes:
        return sorted(boxes, key=lambda box: box.start), None
    return [], text[last[1] :].partition("\n")[0].strip().rstrip("$. ") or None


def gsm8k(text: str) -> str | None:
    """Return what follows the last ``####`` in its line: the form of GSM8K's solutions."""
    _, mark, rest = text.rpartition("####")
    return rest.partition("\n")[0].strip() or None if mark else None


def answer_is(text: str) -> str | None:
    """Return what follows the last "the answer is" or "answer:", to the end of the sentence."""
    start = -1
    for found in _ANSWER_IS.finditer(text):
        start = found.end()
    if start < 0:
        return None
    end = _END_OF_SENTENCE.search(text, start)
    return text[start : end.start() if end else len(text)].strip(" \t*") or None


def answer_tags(text: str) -> str | None:
    """Return what the last ``<answer>`` and ``</answer>`` enclose."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return text[start + len("<answer>") : end].strip() or None if start >= 0 else None


def choice(text: str) -> str | None:
    """Return the letter, A to H, of the last choice: ``(B)``, ``**B**``, ``answer: B``, or ``B`` alone
    in a line. A letter within a sentence may be an article, and is none."""
    letter = None
    for found in _CHOICE.finditer(text):
        letter = found[found.lastgroup or 0]
    return letter


def last_number(text: str) -> str | None:
    """Return the last number: whole, decimal, grouped by thousands or a fraction such as ``3/4``."""
    number = None
    for found in _NUMBER.finditer(text):
        number = found[0]
    return number


@frozen
class FirstOf:
    """Take the answer of the first extraction that finds one.

    Attributes:
        extractions: in the order in which they are tried.
    """

    extractions: tuple[Extraction, ...]

    def __call__(self, text: str) -> str | None:
        found = (extract(text) for extract in self.extractions)
        return next((answer for answer in found if answer is not None), None)


def first_of(*extractions: Extraction) -> FirstOf:
    """Combine extractions: ``first_of(boxed, answer_is, last_number)``."""
    return FirstOf(extractions)
