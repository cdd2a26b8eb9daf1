"""The training text of nano: arithmetic, worked through one functional prompt after another.

Each trace is a question followed by steps; each step is a prompt (a function's description) and a
body. Only bodies are targets, so nano learns to do what a prompt asks and never which function to
choose. Where a trace shows a wrong step, for ``verify`` to find and ``refine`` to correct, that step
is context and never a target: no text presents a wrong step as right.

The functions differ in what they are good at. ``next_step`` does an operation in one jump,
``subquestion`` works a single operation out in small ones, ``direct_answer`` jumps to the end,
``verify`` works the last operation out by another route.
"""

from __future__ import annotations

from random import Random
from typing import Final, TypeAlias

from rftt.problems.arithmetic import (
    Expression,
    Fact,
    Operation,
    first_step,
    render,
    sample_expression,
    split_of,
    steps,
)
from rftt.problems.problem import BOXED
from rftt.tokens.grammar import Grammar

RIGHT: Final = "\nright:"
"""Opens the right step that a comparison shows beside a wrong one."""


TextSpan: TypeAlias = tuple[str, bool]
"""Some text of a trace, and whether it is a target: whether nano is trained to write it."""


def prompt(function: str, grammar: Grammar, wording: Random | None = None) -> str:
    """Return the text that asks for a step: a new line, the function's description, a colon.

    Args:
        function: the name of the step's function.
        grammar: holds its description.
        wording: shortens the text at random, to the first word of the description, which is different
            for each function, and some of what follows it.
    """
    first, *rest = grammar.functions[function].description.split(" ")
    if wording is None:
        return "\n" + " ".join([first, *rest]) + ":"
    keep = wording.choice((0.0, 0.0, 0.5, 1.0))
    words = [first, *(word for word in rest if wording.random() < keep)]
    return "\n" + " ".join(words) + (":" if wording.random() < 0.6 else "")


def _places(number: int) -> list[int]:
    """Split a number by decimal place, largest first, zeros left out: 407 -> [400, 7]."""
    digits = str(number)
    parts = [int(digit) * 10 ** (len(digits) - 1 - i) for i, digit in enumerate(digits)]
    return [part for part in parts if part] or [0]


def _accumulate(start: int, operator: str, parts: list[int]) -> list[Fact]:
    """Apply the operator to ``start`` and each part in turn."""
    facts = []
    for part in parts:
        facts.append(Fact(operator, start, part))
        start = facts[-1].value
    return facts


def worked(fact: Fact) -> list[Fact]:
    """Return the small calculations by which ``subquestion`` answers what ``fact`` asks."""
    if fact.operator != "*":
        return _accumulate(fact.left, fact.operator, _places(fact.right))
    if fact.right > 9:
        products = [Fact("*", fact.left, part) for part in _places(fact.right)]
    else:
        products = [Fact("*", part, fact.right) for part in _places(fact.left)]
    return products + _accumulate(products[0].value, "+", [p.value for p in products[1:]])


def checked(fact: Fact) -> list[Fact]:
    """Return the calculations of another route to the same value, by which ``verify`` checks it."""
    if fact.operator == "+":
        return _accumulate(fact.right, "+", _places(fact.left))
    if fact.operator == "-":
        return _accumulate(fact.left, "-", _places(fact.right)[::-1])
    if min(fact.left, fact.right) > 9:
        products = [Fact("*", part, fact.right) for part in _places(fact.left)]
        return products + _accumulate(products[0].value, "+", [p.value for p in products[1:]])
    large, small = max(fact.left, fact.right), min(fact.left, fact.right)
    if large <= 9:
        return [Fact("*", fact.right, fact.left)]
    above = (large // 10 + 1) * 10
    over, excess = Fact("*", above, small), Fact("*", above - large, small)
    return [over, excess, Fact("-", over.value, excess.value)]


def _written(facts: list[Fact]) -> str:
    return " ".join(f"{fact}={fact.value}" for fact in facts)


def _remaining(expression: Expression, full: bool) -> str:
    if isinstance(expression, int):
        return f"{BOXED}{expression}}}"
    return render(expression, full=full)


def _misread(value: int, rng: Random) -> int:
    """Return a believable wrong value: one digit changed, or 1, 10 or 100 too much or too little."""
    while True:
        if rng.random() < 0.2:
            wrong = value + rng.choice((-10, 10, -100, 100, -1, 1))
        else:
            digits = list(str(value))
            digits[rng.randrange(len(digits))] = str(rng.randint(0, 9))
            wrong = int("".join(digits))
        if wrong != value and 0 <= wrong <= 9999:
            return wrong


def _replace_first(expression: Operation, value: int) -> Expression:
    """Return the expression with ``value`` in the place of its first operation, right or wrong."""
    if isinstance(expression.left, Operation):
        return Operation(expression.operator, _replace_first(expression.left, value), expression.right)
    if isinstance(expression.right, Operation):
        return Operation(expression.operator, expression.left, _replace_first(expression.right, value))
    return value


def write_trace(
    expression: Operation, rng: Random, grammar: Grammar, *, reword: bool = False
) -> list[TextSpan]:
    """Write one way through a problem, by functions drawn at random from those that may follow.

    Args:
        expression: the problem.
        rng: decides everything.
        grammar: holds the functions' descriptions.
        reword: whether prompts come in many wordings.
    """
    spans: list[TextSpan] = [(render(expression), False)]
    full = False

    def write(function: str, body: str, *, is_target: bool = True) -> None:
        spans.append((prompt(function, grammar, rng if reword else None), False))
        spans.append((body, is_target))

    def value_of(start: Expression) -> int:
        *_, (_, value) = steps(start)
        assert isinstance(value, int)
        return value

    if rng.random() < 0.15:
        full = True
        write("clarify", render(expression, full=True))
    if rng.random() < 0.25:
        fact, _ = first_step(expression)
        write("analysis", f"first {fact} {'hard' if fact.is_hard else 'easy'}")

    remaining: Expression = expression
    while isinstance(remaining, Operation):
        fact, after = first_step(remaining)
        is_last = isinstance(after, int)
        if rng.random() < 0.4:
            write("subquestion", f"{fact}: {_written(worked(fact))}")
        if rng.random() < (0.2 if is_last else 0.06):
            answer = f"{BOXED}{value_of(remaining)}}}"
            write("direct_answer", answer)
            break
        right_step = f"{fact}={fact.value} so {_remaining(after, full)}"
        if rng.random() < 0.12:
            claimed = _misread(fact.value, rng)
            wrong = _replace_first(remaining, claimed)
            write("next_step", f"{fact}={claimed} so {_remaining(wrong, full)}", is_target=False)
            if rng.random() < 0.4:
                spans.append((f"{RIGHT}{right_step}", False))
            write("verify", f"{_written(checked(fact))} not {claimed}")
            write("refine", right_step)
        else:
            write("next_step", right_step)
            if rng.random() < 0.12:
                write("verify", f"{_written(checked(fact))} ok")
        remaining = after
    write("output", f"{BOXED}{value_of(expression)}}}")
    spans.append(("\n", True))
    return _with_line_ends(spans)


def _with_line_ends(spans: list[TextSpan]) -> list[TextSpan]:
    """Move each new line to the end of the body before it: nano must know when a step is over."""
    moved: list[TextSpan] = []
    for text, is_target in spans:
        previous, previous_is_target = moved[-1] if moved else ("", False)
        if text.startswith("\n") and previous_is_target:
            moved[-1] = (previous + "\n", True)
            text = text[1:]
        if text:
            moved.append((text, is_target))
    return moved


def training_expression(rng: Random) -> Operation:
    """Sample an expression of the ``train`` split whose inner problems are of that split too.

    Expressions of a single operation are facts of arithmetic, not problems, and belong to all.
    """
    while True:
        expression = sample_expression(rng, rng.choice((1, 1, 2, 2, 3, 4)))
        inner = [expression, *(after for _, after in steps(expression))]
        if all(split_of(part) == "train" for part in inner if _is_problem(part)):
            return expression


def _is_problem(expression: Expression) -> bool:
    return isinstance(expression, Operation) and not (
        isinstance(expression.left, int) and isinstance(expression.right, int)
    )
