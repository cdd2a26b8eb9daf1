"""Questions as a model's chat template puts them."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from rftt.problems.problem import Problem


def chat_question(
    tokenizer: PreTrainedTokenizerBase, *, system: str | None = None
) -> Callable[[Problem], str]:
    """Return the ``question`` of a policy for a chat model: the problem as the user's turn, after which
    the assistant's begins.

    Args:
        tokenizer: the model's.
        system: text of a system turn before it, where the template has one.

    Raises:
        ValueError: if the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise ValueError("the tokenizer has no chat template: leave out question=, or write your own")
    before = [] if system is None else [{"role": "system", "content": system}]

    def question(problem: Problem) -> str:
        turns = [*before, {"role": "user", "content": problem.question}]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    return question
