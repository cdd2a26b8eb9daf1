"""Arithmetic whose splits never meet."""

from __future__ import annotations

import ast
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from rftt.nano.teacher import training_expression
from rftt.problems.arithmetic import (
    Operation,
    arithmetic_problems,
    canonical,
    render,
    sample_expression,
    split_of,
    steps,
)  # fmt: skip

SPLITS = ("train", "warmup", "reinforce", "heldout")


def _evaluate(node: ast.AST) -> int:
    """Python's own reading of an expression."""
    match node:
        case ast.Expression(body=body):
            return _evaluate(body)
        case ast.Constant(value=int(value)):
            return value
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _evaluate(left), _evaluate(right)
            return {ast.Add: a + b, ast.Sub: a - b, ast.Mult: a * b}[type(op)]
    raise AssertionError(ast.dump(node))


@given(st.integers(0, 10**6), st.integers(1, 5), st.booleans())
def test_rendered_expressions_mean_what_their_steps_compute(
    seed: int, operations: int, full: bool
) -> None:
    expression = sample_expression(Random(seed), operations)
    *_, (_, value) = steps(expression)
    assert _evaluate(ast.parse(render(expression, full=full), mode="eval")) == value
    assert all(0 <= fact.value <= 9999 for fact, _ in steps(expression))


def _commuted(expression: Operation, rng: Random) -> Operation:
    left, right = (
        _commuted(part, rng) if isinstance(part, Operation) else part
        for part in (expression.left, expression.right)
    )
    if expression.operator != "-" and rng.random() < 0.5:
        left, right = right, left
    return Operation(expression.operator, left, right)


@given(st.integers(0, 10**6), st.integers(1, 5))
def test_order_of_terms_does_not_change_the_split(seed: int, operations: int) -> None:
    expression = sample_expression(Random(seed), operations)
    commuted = _commuted(expression, Random(seed + 1))
    assert canonical(commuted) == canonical(expression)
    assert split_of(commuted) == split_of(expression)


def test_splits_are_disjoint_whatever_the_seed() -> None:
    seen: dict[str, str] = {}
    for split in SPLITS:
        for seed in range(3):
            for problem in arithmetic_problems(200, split, seed=seed):
                assert seen.setdefault(problem.question, split) == split
    assert len(seen) > 2000


@settings(max_examples=200)
@given(st.integers(0, 10**9))
def test_training_never_meets_a_problem_of_another_split(seed: int) -> None:
    expression = training_expression(Random(seed))
    inner = [expression, *(after for _, after in steps(expression))]
    problems = [
        part
        for part in inner
        if isinstance(part, Operation)
        and (isinstance(part.left, Operation) or isinstance(part.right, Operation))
    ]
    assert {split_of(part) for part in problems} <= {"train"}
    # And problems are just such expressions: of two operations or more.


def test_same_arguments_same_problems_with_answers() -> None:
    problems = arithmetic_problems(50, "heldout", seed=3)
    assert problems == arithmetic_problems(50, "heldout", seed=3)
    assert len({p.id for p in problems}) == 50
    for problem in problems:
        assert str(_evaluate(ast.parse(problem.question, mode="eval"))) == problem.answer
