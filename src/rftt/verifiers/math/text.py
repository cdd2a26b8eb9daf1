"""Write an answer in the one spelling that is compared: what people and models write, and LaTeX reads
otherwise or not at all."""

from __future__ import annotations

import re
from typing import Final

_CHARACTERS: Final = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2008\u2009\u200a\u202f\u3000\t\n\r", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
        "\u00d7": r"\times ",
        "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "∞": r"\infty ", "π": r"\pi ",
        "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "°": r"^\circ ",
        "\u222a": r"\cup ",
        "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "…": r"\ldots ", "√": r"\sqrt ",
        "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}",
        "⅘": r"\frac{4}{5}", "⅙": r"\frac{1}{6}", "⅚": r"\frac{5}{6}", "⅛": r"\frac{1}{8}",
        "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}", "\u2044": "/",
        "²": "^{2}", "³": "^{3}", "\uff05": r"\%",
    }
)  # fmt: skip

_DOLLARS: Final = re.compile(r"(?<!\\)\$")
_LAYOUT: Final = re.compile(
    r"\\(?:(?:displaystyle|textstyle|limits)(?![A-Za-z])|(?:left|right|[bB]ig{1,2}[lr]?)(?![A-Za-z])\.?)"
)
_FRACTION: Final = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_THOUSANDS: Final = re.compile(
    r"(?<![\d.,])\d{1,3}(?:(?:,?\\[,!;: ]\s?|\{,\}\s?)\d{3})+(?![\d])(?!,?\\[,!;: ]\s?\d)"
)
"""Digits in groups that LaTeX sets apart; a plain comma may be that of a list."""
_GROUPED: Final = re.compile(
    r"([^\d.,]*)([+-]?[1-9]\d{0,2}(?:(?:,\d{3})+|(?: \d{3})+)(?:\.\d+)?)(?![\d,.])(.*)\Z"
)
"""The first number of an answer that has no other, in groups."""
_SPACES: Final = re.compile(r"(?:(?<!\\)(?:\\[,;: ]|\\q?quad(?![A-Za-z])|~)|\s)+")
_DEGREES: Final = re.compile(
    r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])\s*|\\degrees?(?![A-Za-z])"
    r"|\s*(?:\\text\{\s*degrees?\s*\}|(?<=[\d ])degrees?)\Z"
)
_PERCENT: Final = re.compile(r"\s*(?:(?<!\\)%|\\%|\\text\{\s*(?:%|\\%|percent)\s*\}|\bpercent\b)")
_PROSE: Final = re.compile(
    r"(?:\\text\{)?\s*(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final )?answer (?:is)?:?"
    r"\s*\}?\s*(?=\S)",
    re.IGNORECASE,
)
_SCIENTIFIC: Final = re.compile(r"([+-]?\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})\Z")
_REPEATING: Final = re.compile(r"(\d*)\.(\d*)\\overline\{\s*(\d+)\s*\}")
_MIXED: Final = re.compile(r"([+-]?)(\d+) (\d+)/(\d+)\Z")
_SWAPPED: Final = re.compile(
    r"((?:\\[A-Za-z]+|[^=<>A-Za-z\\])*[\d})])\s*=\s*([A-Za-z](?:_\{?\w+\}?)?)\Z"
)
_FONT: Final = re.compile(r"\\(?:textbf|textrm|textit|mbox|(?:mathrm|mathbf)(?=\{[^{}]{2,}\}))(?=\{)")
_UPRIGHT: Final = re.compile(r"\\(?:mathrm|mathit)\{\s*([A-Za-z])\s*\}")
_STOP: Final = re.compile(r"(?:[,;:]|(?<!\.)(?<![ap]\.m)\.)\Z")
_TEXT_OF_NUMBER: Final = re.compile(r"\\text\{\s*((?:[A-Za-z]\s*=\s*)?\d[^{}]*)\}\Z")
_IMAGINARY: Final = re.compile(r"(?<=\d)i(?![A-Za-z])")
_PASSES: Final = 8
_WRAPPERS: Final = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"))

_TO_TWENTY: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
_TENS: Final = "thirty forty fifty sixty seventy eighty ninety"
NUMERALS: Final = {word: value for value, word in enumerate(_TO_TWENTY.split())} | {
    word: 10 * tens for tens, word in enumerate(_TENS.split(), 3)
}
"""Number words and what they are worth."""

_NUMBER_WORD: Final = re.compile(r"(?:\\text\{\s*)?([A-Za-z]+)(?:-([A-Za-z]+))?\s*\}?\Z")


def clean(answer: str) -> str:
    r"""Return an answer in one spelling, with nothing decided by its worth.

    Wrappers (``$...$``), layout (``\left``, ``\dfrac``, ``\,``), a full stop at the end, "the answer is"
    at the beginning go. Unicode becomes LaTeX; digits in groups of thousands join; ``3e5``, ``1 1/4``,
    ``0.\overline{3}``, "five" and ``5 = x`` become what LaTeX reads as they are meant.
    """
    # What one pass takes away may uncover more: a wrapper within a wrapper.
    for _ in range(_PASSES):
        before, answer = answer, _cleaned(answer)
        if answer == before:
            break
    return answer


def _cleaned(answer: str) -> str:
    text = _unwrapped(answer.translate(_CHARACTERS))
    if len(_DOLLARS.findall(text)) % 2 == 0:
        # They enclose parts of the answer, as in $x = 1$ or $x = 2$; one alone is money.
        text = _DOLLARS.sub("", text)
    text = _PROSE.sub("", text, count=1) if _PROSE.match(text) else text
    text = _LAYOUT.sub("", text)
    text = _FRACTION.sub(r"\\frac", text)
    text = _UPRIGHT.sub(r" \1", _FONT.sub(r"\\text", text))
    text = _THOUSANDS.sub(lambda found: re.sub(r"\D", "", found[0]), text)
    text = _SPACES.sub(" ", text.replace("\\!", "")).strip()
    text = _DEGREES.sub(r"^\\circ ", text)
    text = _PERCENT.sub(r"\\%", text)
    text = _unwrapped(_TEXT_OF_NUMBER.sub(r"\1", text).replace("\\varnothing", "\\emptyset"))
    if (grouped := _GROUPED.match(text)) and not re.search(r"\d", grouped[1] + grouped[3]):
        text = grouped[1] + grouped[2].replace(",", "").replace(" ", "") + grouped[3]
    return _respelled(text)


def _unwrapped(text: str) -> str:
    before = None
    while before != text:
        before = text
        text = text.strip()
        if len(text) > 1 and text[-2] != "\\":
            text = _STOP.sub("", text)
        for opener, closer in _WRAPPERS:
            inside = text[len(opener) : -len(closer)]
            is_wrapped = text.startswith(opener) and text.endswith(closer) and not inside.endswith("\\")
            if is_wrapped and inside.strip() and opener not in inside.replace("\\$", ""):
                text = inside
    return text


def _respelled(text: str) -> str:
    if found := _SCIENTIFIC.match(text):
        return f"{found[1]} \\times 10^{{{int(found[2])}}}"
    if found := _MIXED.match(text):
        sign, whole, top, bottom = found.groups()
        return f"{sign}{whole}\\frac{{{top}}}{{{bottom}}}"
    if found := _SWAPPED.match(text):
        text = f"{found[2]} = {found[1]}"
    if (found := _NUMBER_WORD.match(text)) and (value := _word_value(*found.groups())) is not None:
        return str(value)
    # math-verify takes i for a complex name only where it stands alone: 2i and 2 i would differ.
    return _IMAGINARY.sub(" i", _REPEATING.sub(_repeated, text))


def _word_value(first: str, second: str | None) -> int | None:
    value = NUMERALS.get(first.lower())
    if value is None or second is None:
        return value
    units = NUMERALS.get(second.lower(), 0)
    return value + units if value >= 20 and 1 <= units <= 9 else None


def _repeated(found: re.Match[str]) -> str:
    """Write a repeating decimal as a fraction: 0.1\\overline{6} is (16 - 1)/90."""
    whole, head, period = found.groups()
    top = int(whole + head + period) - int(whole + head or "0")
    bottom = (10 ** len(period) - 1) * 10 ** len(head)
    return f"\\frac{{{top}}}{{{bottom}}}"
