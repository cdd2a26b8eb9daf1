"""Arithmetic expressions: problems whose every step can be made, worked out and checked exactly.

An expression is an ``int`` or an :class:`Operation`. All values that occur, on the way and at the
end, are integers from 0 to 9999, and both factors of a product lie between 2 and 99.

Every problem belongs to exactly one split (``train``, ``warmup``, ``reinforce``, ``heldout``),
decided by a hash of its canonical form, in which the order of terms and factors does not count.
So splits are disjoint by construction, whoever samples them with whatever seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from random import Random
from typing import Final, Literal, TypeAlias

from attrs import frozen

from rftt.problems.problem import Problem

Split = Literal["train", "warmup", "reinforce", "heldout"]

LARGEST: Final = 9999
_SPLITS: Final[dict[Split, range]] = {
    "train": range(0, 70),
    "warmup": range(70, 80),
    "reinforce": range(80, 90),
    "heldout": range(90, 100),
}
_PRECEDENCE: Final = {"+": 1, "-": 1, "*": 2}


@frozen
class Operation:
    """``left operator right``, with operator one of ``+ - *``."""

    operator: str
    left: Expression
    right: Expression


Expression: TypeAlias = int | Operation


@frozen
class Fact:
    """A calculation of two numbers, ``left operator right = value``."""

    operator: str
    left: int
    right: int

    @property
    def value(self) -> int:
        """The result."""
        return apply(self.operator, self.left, self.right)

    @property
    def is_hard(self) -> bool:
        """Whether it is a product of two factors above ten, too much for a small model in one step."""
        return self.operator == "*" and min(self.left, self.right) > 10

    def __str__(self) -> str:
        return f"{self.left}{self.operator}{self.right}"


def apply(operator: str, left: int, right: int) -> int:
    """Return the value of one operation.

    Raises:
        ValueError: for an operator other than ``+ - *``.
    """
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
    raise ValueError(f"unknown operator {operator!r}: use one of + - *")


def first_step(expression: Operation) -> tuple[Fact, Expression]:
    """Return the operation to do first, and the expression with its value in its place.

    Operands come before operators, left before right.
    """
    if isinstance(expression.left, Operation):
        fact, left = first_step(expression.left)
        return fact, Operation(expression.operator, left, expression.right)
    if isinstance(expression.right, Operation):
        fact, right = first_step(expression.right)
        return fact, Operation(expression.operator, expression.left, right)
    fact = Fact(expression.operator, expression.left, expression.right)
    return fact, fact.value


def steps(expression: Expression) -> Iterator[tuple[Fact, Expression]]:
    """Yield the operations in order, each with the expression that remains after it."""
    while isinstance(expression, Operation):
        fact, expression = first_step(expression)
        yield fact, expression


def render(expression: Expression, *, full: bool = False) -> str:
    """Render an expression as text, bracketed where needed; ``full`` brackets every inner operation."""
    if isinstance(expression, int):
        return str(expression)
    precedence = _PRECEDENCE[expression.operator]

    def operand(part: Expression, binds_from: int) -> str:
        text = render(part, full=full)
        if isinstance(part, int):
            return text
        return f"({text})" if full or _PRECEDENCE[part.operator] < binds_from else text

    left, right = operand(expression.left, precedence), operand(expression.right, precedence + 1)
    return f"{left}{expression.operator}{right}"


def canonical(expression: Expression) -> str:
    """Return a text that is equal for expressions that differ only in the order of terms or factors."""
    if isinstance(expression, int):
        return str(expression)
    left, right = canonical(expression.left), canonical(expression.right)
    if expression.operator != "-":
        left, right = sorted((left, right))
    return f"({left}{expression.operator}{right})"


def split_of(expression: Expression) -> Split:
    """Return the one split that an expression belongs to."""
    digest = hashlib.sha256(canonical(expression).encode()).digest()
    bucket = int.from_bytes(digest[:8], "big") % 100
    return next(split for split, buckets in _SPLITS.items() if bucket in buckets)


def _random_expression(rng: Random, operations: int) -> Expression:
    if operations == 0:
        return rng.randint(2, 9) if rng.random() < 0.35 else rng.randint(11, 99)
    on_the_left = rng.randint(0, operations - 1)
    return Operation(
        rng.choice("+-**"),
        _random_expression(rng, on_the_left),
        _random_expression(rng, operations - 1 - on_the_left),
    )


def _is_within_bounds(fact: Fact) -> bool:
    if fact.operator == "*" and not (2 <= fact.left <= 99 and 2 <= fact.right <= 99):
        return False
    return 0 <= fact.value <= LARGEST


def sample_expression(rng: Random, operations: int) -> Operation:
    """Sample an expression of ``operations`` operations, all of whose values lie within bounds.

    Raises:
        ValueError: if ``operations`` is less than 1.
    """
    if operations < 1:
        raise ValueError(f"operations must be 1 or more, not {operations}")
    while True:
        expression = _random_expression(rng, operations)
        if isinstance(expression, Operation) and all(
            _is_within_bounds(fact) for fact, _ in steps(expression)
        ):
            return expression


def arithmetic_problems(
    count: int, split: Split, *, seed: int = 0, operations: tuple[int, ...] = (2, 3, 4)
) -> list[Problem]:
    """Sample distinct problems of one split, each asking for the value of an expression.

    Args:
        count: number of problems.
        split: where they are from; problems of different splits never coincide, whatever their seeds.
        seed: of the random stream; the same arguments give the same problems.
        operations: numbers of operations to choose from, with equal chance.
    """
    rng = Random(f"{split}/{seed}")
    found: dict[str, Problem] = {}
    while len(found) < count:
        expression = sample_expression(rng, rng.choice(operations))
        if split_of(expression) == split:
            question = render(expression)
            found.setdefault(
                canonical(expression),
                Problem(id=f"{split}/{question}", question=question, answer=str(_value(expression))),
            )
    return list(found.values())


def _value(expression: Operation) -> Expression:
    *_, (_, value) = steps(expression)
    return value
