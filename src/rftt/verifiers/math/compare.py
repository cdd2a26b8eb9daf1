"""Compare two answers by math-verify, and hold it to what its tolerances let through.

Runs in a worker process only: what a model writes can take any time and any memory.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from math_verify import LatexExtractionConfig, parse, verify
from math_verify.grader import is_equation, is_relation, take_first_relation, take_last_relation
from sympy import (  # type: ignore[import-untyped]
    Basic,
    Eq,
    Expr,
    FiniteSet,
    Float,
    Interval,
    Limit,
    MatrixBase,
    N,
    Set,
    Tuple,
    nan,
    zoo,
)
from sympy.concrete.expr_with_limits import ExprWithLimits  # type: ignore[import-untyped]

from rftt.verifiers.math.size import check_size, check_text

# Its units are single letters too: 3t would be 3. Those that are units are off by now.
_CONFIG: Final = (
    LatexExtractionConfig(
        normalization_config=replace(LatexExtractionConfig().normalization_config, units=False)
    ),
)
_EXACT: Final = 1e-20
_ROUNDED: Final = 2e-6
"""Largest relative difference of equal numbers: written exactly, and where one is a decimal."""

_APART: Final = 1e-4
"""Relative difference of values that no rounding explains."""

_POINTS: Final = ((2, 3, 5, 7, 11, 13), (13, 11, 7, 5, 3, 2))
"""Values of the names, in alphabetical order, at which expressions are compared before they are
simplified. Whole and positive, so that nothing which holds for counts and lengths alone is refused."""

_ZERO: Final = 1e-100
"""A value that no digits distinguish from zero at the precision of evaluation."""


def equal(a: str, b: str) -> bool:
    """Whether two answers are equal; the same whichever comes first.

    math-verify calls one of two answers the gold one, and takes the right side of an equation more
    readily in the other: ``2x + y = 5`` is right for a gold 5, but 5 is wrong for a gold ``2x + y = 5``.
    Where the two orders disagree, an equation equals its right side only if it is true as it stands, as
    in ``2 + 3 = 5``. (One whose left side is a name, as in ``AB = 5``, equals its right side in both.)

    Raises:
        TooLargeError: if a number in one is too large to be evaluated.
        Exception: whatever math-verify or sympy raise of an answer.
    """
    first, second = _parsed(a), _parsed(b)
    if any(isinstance(one[0], Basic) and one[0].has(nan, zoo) for one in (first, second)):
        return False
    if "%" not in a + b and _differ(first[0], second[0]):
        return False
    is_equal = _verified(first, second)
    if _has_order(first[0], second[0]) and is_equal != _verified(second, first):
        is_equal = all(_is_true(one[0]) for one in (first, second) if is_equation(one[0]))
    return is_equal and ("%" in a + b or _is_near(first[0], second[0]))


@lru_cache(maxsize=2048)
def _parsed(answer: str) -> list[Any]:
    check_text(answer)
    parsed: list[Any] = parse(
        f"\\boxed{{{answer}}}", extraction_config=_CONFIG, parsing_timeout=None, raise_on_error=True
    )
    if not parsed:
        return [answer]
    check_size(parsed[0])
    return parsed


def _differ(a: Any, b: Any) -> bool:
    """Whether two expressions have values at some point that are apart: it saves simplifying them."""
    if not all(isinstance(one, Expr) and not (one.is_Matrix or one.is_Symbol) for one in (a, b)):
        return False
    if any(one.has(ExprWithLimits, Limit) for one in (a, b)):
        # Of sums and integrals an evaluation is an estimate.
        return False
    names = sorted(a.free_symbols | b.free_symbols, key=str)
    for values in _POINTS[: 1 if not names else None] if len(names) <= len(_POINTS[0]) else ():
        at = dict(zip(names, values, strict=False))
        try:
            first, second = (complex(one.evalf(15, subs=at)) for one in (a, b))
        except (TypeError, ValueError, OverflowError):
            continue
        if abs(first - second) > _APART * max(abs(first), abs(second)):
            return True
    return False


def _verified(gold: Any, answer: Any) -> bool:
    # An inequality and the interval that it describes are equal in either order.
    return bool(
        verify(gold, answer, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True)
    )


def _has_order(a: Any, b: Any) -> bool:
    """Whether math-verify may answer otherwise for the other order."""
    return any(is_relation(one) or isinstance(one, (Set, Tuple)) for one in (a, b))


def _is_true(equation: Any) -> bool:
    return _verified(take_last_relation(equation).rhs, take_first_relation(equation).lhs)


def _is_near(a: Any, b: Any) -> bool:
    """Whether numbers that math-verify finds equal are so relative to their size: it rounds to six
    decimals and evaluates to fifteen, so all that is small enough is zero to it."""
    if isinstance(a, Eq) and isinstance(b, Eq):
        return a.lhs != b.lhs or _is_near(a.rhs, b.rhs)
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Eq) and isinstance(other, Expr):
            return _is_near(one.rhs, other)
    if all(isinstance(one, (Tuple, FiniteSet, Interval)) for one in (a, b)):
        parts = [one.args[:2] if isinstance(one, Interval) else one.args for one in (a, b)]
        if len(parts[0]) != len(parts[1]) or type(a) is not type(b):
            return True
        return all(
            any(_is_near(x, y) for y in parts[1])
            if isinstance(a, FiniteSet)
            else _is_near(x, parts[1][place])
            for place, x in enumerate(parts[0])
        )
    if not all(isinstance(one, Expr) and not isinstance(one, MatrixBase) for one in (a, b)):
        return True
    if a == b or a.free_symbols or b.free_symbols:
        return True
    return _is_near_number(a, b)


def _is_near_number(a: Any, b: Any) -> bool:
    first, second = a.doit(), b.doit()
    if first.is_Rational and second.is_Rational and not (a.has(Float) or b.has(Float)):
        return bool(first == second)
    size = max(abs(N(first, 40)), abs(N(second, 40)))
    if not size.is_comparable or size < _ZERO:
        return True
    most = _ROUNDED if a.has(Float) or b.has(Float) else _EXACT
    return bool(abs(N(first - second, 40)) <= most * size)
