"""States and answers that a verifier is tried on."""

from __future__ import annotations

from typing import Final

from attrs import evolve

from rftt.interfaces import State, Step
from rftt.problems.problem import BOXED, Problem

_SOLVED: Final = (
    ("12", "twelve, so \\boxed{12}"),
    ("12", "thirteen, so \\boxed{13}"),
    ("13", "thirteen, so \\boxed{13}"),
    ("1234", "\\boxed{1234}"),
    ("1/2", "a half: \\boxed{\\frac{1}{2}}"),
    ("1/2", "a half: \\boxed{0.5}"),
    ("1/2", "two: \\boxed{2}"),
    ("x+1", "\\boxed{1+x}"),
    ("x+1", "\\boxed{x-1}"),
    ("2x", "\\boxed{x+x}"),
    ("3x", "\\boxed{x+x}"),
    ("\\frac{3}{4}", "first \\boxed{1}, no, \\boxed{0.75}"),
    ("4", "nothing is boxed here: 4"),
    ("4", "an empty box: \\boxed{}"),
    ("4", "an open box: \\boxed{4"),
    ("-7", "\\boxed{-7}"),
    ("-7", "\\boxed{7}"),
)
"""Gold answers and last steps: right, wrong, and without an answer."""

_SUMS: Final = 12
"""More solutions, of a sum each: every second one is wrong."""

ANSWERS: Final = (
    "12", "13", "1/2", "0.5", "\\frac{1}{2}", "x+1", "1+x", "2x", "x+x", "x=5", "5", "(1,2)", "2", "",
    " 12 ",
)  # fmt: skip

HOSTILE: Final = (
    "", " ", "\n\n", "\x00", "1\x002", "\x1b[2J\x07\x08", "\ud800", "5\udfff", "\u202e21", "{" * 35_000,
    "}" * 35_000, "(" * 5_000, BOXED * 5_000, "\\frac{" * 2_000, "9^{9^{9^{9}}}", "9**9**9**9",
    "10^{10^{10}}", "(10^9)!", "9" * 100_000, "\\sqrt" * 3_000, "x+" * 2_000, "</answer>", "$$" * 2_000,
    "'; import os; os._exit(0) #", "nan", "inf", "-1e999", "None", "import this",
)  # fmt: skip
"""Texts that a model may write and that have been the end of one verifier or another."""


def solution(problem: Problem, *texts: str, terminal: bool = True, truncated: bool = False) -> State:
    """Return a state with these steps, of which the last is ``terminal`` or not. Each has one id, which
    stands for its text."""
    steps = [
        Step("output" if text is texts[-1] else "think", text, (1,), (-0.5,), (True,), terminal=False)
        for text in texts
    ]
    if steps:
        steps[-1] = evolve(steps[-1], terminal=terminal, truncated=truncated)
    return State(problem, tuple(steps))


def default_states() -> list[State]:
    """Return solutions of mathematical problems: of several problems, several of one, and two problems
    of one id that differ in all else."""
    states = [
        solution(Problem(f"p{number // 3}", f"What is number {number // 3}?", gold), "let us see", text)
        for number, (gold, text) in enumerate(_SOLVED)
    ]
    states += [
        solution(Problem(f"sum{k}", "What is the sum?", f"{k}x"), f"\\boxed{{x+{k - 1 - k % 2}x}}")
        for k in range(4, 4 + _SUMS)
    ]
    same = [Problem("same", question, gold) for question, gold in (("one?", "5"), ("two?", "6"))]
    return states + [solution(problem, "\\boxed{5}") for problem in same]


def unusual(states: list[State]) -> list[State]:
    """Return states made of others: without steps, without a gold answer, unfinished and truncated."""
    made: list[State] = []
    for state in states[:2]:
        problem, steps = state.problem, state.steps
        made += [State(problem), State(evolve(problem, answer=None)), State(problem, steps[:1])]
        made.append(State(evolve(problem, answer=None), steps))
        if steps:
            last = steps[-1]
            made.append(State(problem, (*steps[:-1], evolve(last, terminal=False))))
            made.append(State(problem, (*steps[:-1], evolve(last, terminal=True, truncated=True))))
            made.append(State(problem, (*steps[:-1], evolve(last, text=""))))
    return made


def hostile_states(state: State) -> list[State]:
    """Return the state with each of the hostile texts as what its last step says, and as its answer in
    a box."""
    *before, last = state.steps
    return [
        State(state.problem, (*before, evolve(last, text=text)))
        for hostile in HOSTILE
        for text in (hostile, f"{BOXED}{hostile}}}")
    ]
