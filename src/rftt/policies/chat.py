"""What a chat model is asked: its turns, and prompts that ask for the form that verifiers read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rftt.problems.problem import BOXED, Problem
from rftt.tokens.grammar import Grammar

SYSTEM: Final = (
    "Solve the problem step by step. Each step is one short line. The last line states the final "
    f"answer, a number or an expression alone, inside {BOXED}}}."
)
"""Default system text."""

_PROMPTS: Final = {
    "clarify": "What the question asks:",
    "analysis": "Plan:",
    "subquestion": "A smaller question and its answer:",
    "next_step": "Next step:",
    "direct_answer": "The answer, in a box:",
    "verify": "Check of the last step:",
    "refine": "Corrected step:",
    "output": "Final answer:",
}
"""Prompts for the functions of the paper."""

_ANSWERS: Final = ("direct_answer", "output")
"""Functions of the paper whose steps state an answer."""


WorkedExample = tuple[str, Sequence[tuple[str, str]]]
"""A question and the steps of its solution, each a function and a body."""


def plain_prompts(grammar: Grammar) -> dict[str, str]:
    """Return the prompts of a model without turns: each function's description and a colon."""
    return {name: f"{function.description}:" for name, function in grammar.functions.items()}


def chat_prompts(grammar: Grammar) -> dict[str, str]:
    """Return the prompts of a chat model: for functions of the paper labels such as an assistant would
    write, for others their description and a colon."""
    return {
        name: _PROMPTS.get(name, f"{function.description[:1].upper()}{function.description[1:]}:")
        for name, function in grammar.functions.items()
    }


def boxed_openings(grammar: Grammar) -> dict[str, str]:
    """Return the openings of a chat model: the steps that state an answer open a box, so that every
    solution that ends has an answer in the form that verifiers read."""
    answers = {name for name in grammar.functions if grammar.is_terminal(name)}
    return {name: f" {BOXED}" for name in grammar.functions if name in answers.union(_ANSWERS)}


def chat_question(
    tokenizer: PreTrainedTokenizerBase,
    *,
    system: str | None = None,
    examples: Sequence[tuple[str, str]] = (),
    **template: Any,
) -> Callable[[Problem], str]:
    """Return the ``question`` of a policy for a chat model: the problem as the user's turn, after which
    the assistant's begins.

    Args:
        tokenizer: the model's.
        system: text of a system turn before it; where the template has no such turn, it opens the first
            turn of the user.
        examples: questions and their worked solutions, as earlier turns; :func:`solution_text` writes
            one as the policy's steps.
        **template: passed on to the template, such as ``enable_thinking=False``.

    Raises:
        ValueError: if the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            "the tokenizer has no chat template: leave out question=, or pass a function of your own "
            "that makes a text of a Problem"
        )
    before = [] if system is None else [{"role": "system", "content": system}]
    for asked, solution in examples:
        before += [{"role": "user", "content": asked}, {"role": "assistant", "content": solution}]

    def render(turns: list[dict[str, str]]) -> str:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, **template
        )
        return str(text)

    def question(problem: Problem) -> str:
        turns = [*before, {"role": "user", "content": problem.question}]
        if system is None:
            return render(turns)
        try:
            return render(turns)
        except TemplateError:
            # Some templates refuse a system turn.
            first = turns[1]["content"]
            return render([{"role": "user", "content": f"{system}\n\n{first}"}, *turns[2:]])

    return question


def plain_question(examples: Sequence[tuple[str, str]] = ()) -> Callable[[Problem], str]:
    """Return the ``question`` of a policy for a model without turns: examples, each a question, its
    worked solution and an empty line, and then the problem's question and a new line."""
    before = "".join(f"{asked}\n{solution.rstrip()}\n\n" for asked, solution in examples)
    return lambda problem: f"{before}{problem.question}\n"


def solution_text(prompts: Mapping[str, str], steps: Sequence[tuple[str, str]]) -> str:
    """Write the worked solution of an example as a prompted policy's context would hold it.

    Args:
        prompts: the policy's.
        steps: for each step its function and its body.

    Raises:
        ValueError: naming a function without a prompt.
    """
    for function, _ in steps:
        if function not in prompts:
            raise ValueError(f"example: {function!r} has no prompt; known: {', '.join(prompts)}")
    return "".join(f"{prompts[function]} {body}\n" for function, body in steps)
