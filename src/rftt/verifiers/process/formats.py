"""How published process reward models are shown a solution, and where their scores are read."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from attrs import field, frozen, validators
from transformers import PreTrainedTokenizerBase

Head = Literal["language model", "token classifier"]
"""What the logits are over: the vocabulary, or a few labels."""


@frozen
class ScoredIds:
    """A solution as a process reward model is shown it.

    Attributes:
        ids: the question and the steps.
        places: for each step, the place at whose logits its score is read.
    """

    ids: tuple[int, ...]
    places: tuple[int, ...]


class ProcessFormat(ABC):
    """Lays out a question and its steps, and says which two logits make a step's score.

    A step's score is the probability of the good one of two labels: the softmax of two logits.

    A text cannot forge a tag: questions and steps have spaces for the tokenizer's special tokens, and
    scores are read where the format put a tag, not wherever its id stands.
    """

    head: ClassVar[Head]

    @abstractmethod
    def lay_out(
        self, tokenizer: PreTrainedTokenizerBase, question: str, steps: Sequence[str]
    ) -> ScoredIds:
        """Return the ids of a question and at least one step, and a place for each step.

        Raises:
            ValueError: if a step's tag is not one id in that text.
        """

    @abstractmethod
    def labels(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
        """Return which logits are those of a good step and of a bad one."""


@frozen
class MathShepherd(ProcessFormat):
    """The format of ``peiyi9979/math-shepherd-mistral-7b-prm``, as in its model card (arXiv 2312.08935).

    The question, a space, and the steps, each ended by a space and the step tag::

        What is 2 * 3 + 1? Step 1: 2 * 3 = 6 ки
        Step 2: 6 + 1 = 7. The answer is: 7 ки

    A score is read at the tag: the probability of "+" against "-".

    Attributes:
        tag: one id of the tokenizer.
        good, bad: the labels; of each the last id of its encoding counts.
        numbered: whether "Step 1: " and so on stands before each step, as in the training data.
    """

    head: ClassVar[Head] = "language model"

    tag: str = field(default="ки", validator=validators.min_len(1))
    good: str = "+"
    bad: str = "-"
    numbered: bool = True

    def lay_out(
        self, tokenizer: PreTrainedTokenizerBase, question: str, steps: Sequence[str]
    ) -> ScoredIds:
        text = without_specials(tokenizer, question)
        ends = []
        for number, step in enumerate(steps, start=1):
            text += "\n" if number > 1 else " "
            text += f"Step {number}: " if self.numbered else ""
            text += f"{without_specials(tokenizer, step)} {self.tag}"
            ends.append(len(text))
        return _located(tokenizer, text, ends, self.tag, special=True)

    def labels(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
        return _two_ids(tokenizer, self.good, self.bad)


@frozen
class QwenMathPRM(ProcessFormat):
    """The format of ``Qwen/Qwen2.5-Math-PRM-7B``, as in its model card (arXiv 2501.07301).

    The model's chat template: a system turn, the question as the user's turn, and as the assistant's
    all steps, each ended by ``<extra_0>``. A score is read there: the probability of label 1 of a token
    classifier with two labels.

    Attributes:
        system: the system turn; ``None`` leaves it out.
        tag: one id of the tokenizer.
    """

    head: ClassVar[Head] = "token classifier"

    system: str | None = "Please reason step by step, and put your final answer within \\boxed{}."
    tag: str = field(default="<extra_0>", validator=validators.min_len(1))

    def lay_out(
        self, tokenizer: PreTrainedTokenizerBase, question: str, steps: Sequence[str]
    ) -> ScoredIds:
        turns = [] if self.system is None else [{"role": "system", "content": self.system}]
        turns.append({"role": "user", "content": without_specials(tokenizer, question, self.tag)})
        solution = "".join(without_specials(tokenizer, step, self.tag) + self.tag for step in steps)
        text = _chat(tokenizer, [*turns, {"role": "assistant", "content": solution}])
        ends = [match.end() for match in re.finditer(re.escape(self.tag), text)]
        if len(ends) != len(steps):
            raise ValueError(
                f"the chat template shows {len(ends)} step tags {self.tag!r} for {len(steps)} steps; "
                "it must show the assistant's turn as it is, and the system turn must hold none"
            )
        return _located(tokenizer, text, ends, self.tag)

    def labels(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
        return 1, 0


@frozen
class RLHFlow(ProcessFormat):
    """The format of ``RLHFlow/Llama3.1-8B-PRM-Mistral-Data`` and ``-Deepseek-Data``, as in
    ``math-rm/prm_evaluate.py`` of RLHFlow/RLHF-Reward-Modeling, which their model cards refer to.

    The model's chat template: each step is a user's turn, the first one after the question and a space,
    and each is answered by an assistant's turn, "+". A score is read at the place before that "+": the
    probability of "+" against "-".

    Attributes:
        good, bad: the labels; of each the last id of its encoding counts.
    """

    head: ClassVar[Head] = "language model"

    good: str = "+"
    bad: str = "-"

    def lay_out(
        self, tokenizer: PreTrainedTokenizerBase, question: str, steps: Sequence[str]
    ) -> ScoredIds:
        turns: list[dict[str, str]] = []
        before = []
        for number, step in enumerate(steps):
            content = step if number else f"{question} {step}"
            turns.append({"role": "user", "content": without_specials(tokenizer, content)})
            before.append(_chat(tokenizer, turns, add_generation_prompt=True))
            turns.append({"role": "assistant", "content": self.good})
        text = _chat(tokenizer, turns)
        for number, prefix in enumerate(before):
            if not text.startswith(prefix + self.good):
                raise ValueError(
                    f"step {number}: the chat template changes earlier turns when one is added, so the "
                    f"place of {self.good!r} cannot be told; give the tokenizer the model's own template"
                )
        ends = [len(prefix) + len(self.good) for prefix in before]
        found = _located(tokenizer, text, ends, self.good)
        return ScoredIds(found.ids, tuple(place - 1 for place in found.places))

    def labels(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
        return _two_ids(tokenizer, self.good, self.bad)


def without_specials(tokenizer: PreTrainedTokenizerBase, text: str, *more: str) -> str:
    """Return a text with a space for each special token of a tokenizer, and for each of ``more``.

    Half of a surrogate pair, which no tokenizer takes, becomes a question mark.
    """
    added = tokenizer.added_tokens_decoder.values()
    specials = {token.content for token in added if token.special} | {*more}
    pattern = re.compile("|".join(map(re.escape, sorted(specials, key=len, reverse=True))) or r"(?!)")
    return pattern.sub(" ", text.encode(errors="replace").decode())


def _chat(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], **settings: Any) -> str:
    if tokenizer.chat_template is None:
        raise ValueError(
            "the tokenizer has no chat template, and this format is a chat: load the model's"
        )
    return str(tokenizer.apply_chat_template(turns, tokenize=False, **settings))


def _last_id(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if not ids or ids[-1] == tokenizer.unk_token_id:
        raise ValueError(
            f"the tokenizer has no id for {text!r}: it is not that of a model of this format"
        )
    return int(ids[-1])


def _two_ids(tokenizer: PreTrainedTokenizerBase, good: str, bad: str) -> tuple[int, int]:
    ids = _last_id(tokenizer, good), _last_id(tokenizer, bad)
    if ids[0] == ids[1]:
        raise ValueError(f"the labels {good!r} and {bad!r} end in the same id {ids[0]}")
    return ids


def _located(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    ends: Sequence[int],
    tag: str,
    *,
    special: bool = False,
) -> ScoredIds:
    """Encode a text, and find the ids of the tags that end at some places of the text."""
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    ids, spans = encoded["input_ids"], encoded["offset_mapping"]
    wanted = _last_id(tokenizer, tag)
    place_of = {end: place for place, (start, end) in enumerate(spans) if start < end}
    places = []
    for step, end in enumerate(ends):
        place = place_of.get(end)
        # The id before it must have ended where the tag begins.
        whole = place is not None and (place == 0 or spans[place - 1][1] <= end - len(tag))
        if place is None or not whole or ids[place] != wanted:
            raise ValueError(
                f"step {step}: the tokenizer does not make {tag!r} at its end the one id {wanted}; it "
                "splits it, or joins it with the text beside it"
            )
        places.append(place)
    return ScoredIds(tuple(ids), tuple(places))
