"""Tiny process reward models of random weights in the published formats, and solutions to score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from attrs import frozen
from hypothesis import strategies as st
from transformers import (
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForTokenClassification,
)

from rftt import Problem, State, Step
from rftt.verifiers.process.formats import MathShepherd, ProcessFormat, QwenMathPRM, RLHFlow
from rftt.verifiers.process.model import Qwen2ForProcessRewardModel
from tests.families import family_model, family_tokenizer

FORMATS: dict[str, ProcessFormat] = {
    "math-shepherd": MathShepherd(),
    "qwen": QwenMathPRM(),
    "rlhflow": RLHFlow(),
}

_LLAMA_3 = (
    "{{ '<|begin_of_text|>' }}{% for m in messages %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


@frozen(eq=False)
class RewardModel:
    """A model and what it needs."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    format: ProcessFormat


def shepherd_tokenizer() -> PreTrainedTokenizerBase:
    """Like Mistral's: a space before a word is part of it, so " ки", " +" and " -" are one id each."""
    characters = ["▁", *(chr(i) for i in range(33, 127)), "к", "и"]
    names = ["<unk>", "<s>", "</s>", *[f"<0x{i:02X}>" for i in range(256)], *characters]
    merges = [("к", "и"), ("▁", "ки"), ("▁", "+"), ("▁", "-")]
    names += [left + right for left, right in merges]
    words = LlamaTokenizer(
        vocab={name: i for i, name in enumerate(names)}, merges=merges, add_bos_token=True
    )
    assert [words.convert_tokens_to_ids(name) for name in ("▁ки", "▁+", "▁-")] == [
        len(names) - 3, len(names) - 2, len(names) - 1
    ]  # fmt: skip
    return words


def qwen_tokenizer() -> PreTrainedTokenizerBase:
    words = family_tokenizer("qwen2")
    # The published tokenizer's is no special token, either.
    words.add_tokens(["<extra_0>"])
    return words


def llama_3_tokenizer() -> PreTrainedTokenizerBase:
    words = family_tokenizer("phi")
    names = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    words.add_special_tokens({"additional_special_tokens": names})
    words.chat_template = _LLAMA_3
    return words


def token_classifier(rows: int, *, published: bool = False) -> Any:
    """A Qwen2 with a head of one layer, as transformers has it, or of two, as the published model."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=rows, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512, num_labels=2,
    )  # fmt: skip
    model: Any = (Qwen2ForProcessRewardModel if published else Qwen2ForTokenClassification)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
    return model.eval()


def reward_model(name: str) -> RewardModel:
    if name == "qwen":
        words = qwen_tokenizer()
        return RewardModel(token_classifier(len(words)), words, FORMATS[name])
    words = shepherd_tokenizer() if name == "math-shepherd" else llama_3_tokenizer()
    model = family_model("mistral" if name == "math-shepherd" else "llama", len(words))
    return RewardModel(model, words, FORMATS[name])


def state(texts: Sequence[str], question: str = "What is 2*3+1?", id: str = "p") -> State:
    functions = ["analysis", "next_step", "verify", "output"]
    return State(
        Problem(id, question, "7"),
        tuple(
            Step(functions[n % 4], text, (5, 6 + n), (-1.0, -1.0), (True, True), terminal=False)
            for n, text in enumerate(texts)
        ),
    )


_TEXT = st.text("2*3=6+17 .ки\n", max_size=12)
"""The letters of the tag are among them."""


def states(least: int = 1, most: int = 6) -> st.SearchStrategy[list[State]]:
    """Solutions of up to four steps, some of them empty."""
    one = st.builds(state, st.lists(_TEXT, min_size=1, max_size=4), _TEXT.map(lambda t: f"What? {t}"))
    return st.lists(one, min_size=least, max_size=most)
