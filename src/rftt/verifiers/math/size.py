"""Refuse what is too large to be evaluated before sympy tries: towers of powers, huge factorials."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from sympy import (  # type: ignore[import-untyped]
    Add,
    Integer,
    MatrixBase,
    Mul,
    Number,
    Pow,
    binomial,
    factorial,
    factorial2,
    gamma,
    subfactorial,
)

MOST_DIGITS: Final = 20_000
"""Most decimal digits of a number that is evaluated."""

_BINOMIAL: Final = re.compile(
    r"\\[dt]?binom\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}\s*\{|\{([^{}]*)\\choose|C\s*\(([^(),]*),"
)


_DEEPEST: Final = 20
"""Most parentheses in parentheses: each one doubles the time of the parser, beyond some ten."""


class TooLargeError(ValueError):
    """Raised for an answer that is too large to be parsed or evaluated."""


def check_text(text: str) -> None:
    """Refuse what takes forever to parse: a binomial of a large number, which is evaluated at once, and
    parentheses in parentheses.

    Raises:
        TooLargeError: if the upper number of a binomial has more than five digits or is not written out,
            or parentheses are nested more than 20 deep.
    """
    depth = deepest = 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        deepest = max(deepest, depth)
    if deepest > _DEEPEST:
        raise TooLargeError(f"parentheses {deepest} deep take too long to be parsed")
    for found in _BINOMIAL.finditer(text):
        top = next(part for part in found.groups() if part is not None)
        if len(re.sub(r"\D", "", top)) > 5 or (
            re.search(r"[\^!]|\\binom", top) and re.search(r"\d", top)
        ):
            raise TooLargeError(f"the binomial of {top:.40} is too large to be evaluated")


def check_size(expression: Any) -> None:
    """Refuse an expression with a number of more than :data:`MOST_DIGITS` digits in it.

    Raises:
        TooLargeError: if it has one.
    """
    if isinstance(expression, MatrixBase):
        for item in expression.flat():
            check_size(item)
    elif _digits(expression) > MOST_DIGITS:
        raise TooLargeError(f"a number of more than {MOST_DIGITS} digits is too large to be evaluated")


def _digits(expression: Any) -> float:
    """Return an upper bound of the decimal digits of a value and of all that it is computed from;
    infinity where it is beyond all bounds."""
    if isinstance(expression, Integer):
        return abs(int(expression)).bit_length() * math.log10(2)
    arguments = getattr(expression, "args", ())
    if isinstance(expression, Number) or not arguments:
        return 1.0
    sizes = [_digits(argument) for argument in arguments]
    if max(sizes) > MOST_DIGITS:
        return math.inf
    if isinstance(expression, Pow):
        base, exponent = sizes
        # An exponent of few digits is known; one of a symbol is not evaluated.
        times = 1.0 if expression.exp.free_symbols else _bound(expression.exp, exponent)
        return max(base, exponent, base * times)
    if isinstance(expression, (factorial, factorial2, subfactorial, gamma, binomial)):
        n = 1.0 if arguments[0].free_symbols else _bound(arguments[0], sizes[0])
        return max(*sizes, n * math.log10(max(n, 2.0))) if n < math.inf else math.inf
    if isinstance(expression, Mul):
        return sum(sizes)
    return max(sizes) + (1.0 if isinstance(expression, Add) else 0.0)


def _bound(expression: Any, digits: float) -> float:
    """Return an upper bound of the absolute value of a number of so many digits."""
    if isinstance(expression, Integer):
        return float(abs(int(expression))) if digits < 300 else math.inf
    return 10.0**digits if digits < 300 else math.inf
