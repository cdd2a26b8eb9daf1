"""Tiny models of random weights of several families, each with a tokenizer of its family's type."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaTokenizer,
    GPT2Tokenizer,
    LlamaConfig,
    LlamaTokenizer,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2Tokenizer,
    Qwen3Config,
)

_TEXT = (
    "Compute 12 + 7 * 3, step by step. First the product: 7 * 3 = 21.",
    "Then the sum: 12 + 21 = 33, so the answer is \\boxed{33}.",
    "Understand and restate the question: what is asked? user assistant system",
)
_BYTES = [f"<0x{i:02X}>" for i in range(256)]
_CHAT = {
    "llama": "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}",
    "qwen": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "gemma": "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "phi": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}",
}

_SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 512,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
_WINDOWED = {"sliding_window": 12}
_MIXED = {"layer_types": ["sliding_attention", "full_attention"]}

CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**_SIZES),
    "qwen2": Qwen2Config(**_SIZES),
    "qwen3": Qwen3Config(**_SIZES | {"tie_word_embeddings": True}),
    "qwen3 of two kinds of layer": Qwen3Config(**_SIZES, **_WINDOWED, **_MIXED, use_sliding_window=True),
    "gemma": GemmaConfig(**_SIZES),
    "gemma3": Gemma3TextConfig(**_SIZES, **_WINDOWED, **_MIXED),
    "mistral": MistralConfig(**_SIZES, **_WINDOWED),
    "phi": PhiConfig(**_SIZES),
    "phi3": Phi3Config(**_SIZES),
}
"""Some see only so far back, in all layers or in some."""


def family_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A tokenizer of the type that the family uses, trained on a few lines."""
    if name.startswith("qwen"):
        vocabulary, merges = _byte_level(["<|endoftext|>"])
        words = Qwen2Tokenizer(vocab=vocabulary, merges=merges)
        words.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        words.chat_template = _CHAT["qwen"]
    elif name.startswith("gemma"):
        specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *_BYTES]
        vocabulary, merges = _spaces_as_signs(specials)
        words = GemmaTokenizer(vocab=vocabulary, merges=merges)
        words.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
        words.chat_template = _CHAT["gemma"]
    elif name == "phi":
        vocabulary, merges = _byte_level(["<|endoftext|>"])
        words = GPT2Tokenizer(vocab=vocabulary, merges=merges)
        words.chat_template = _CHAT["phi"]
    else:
        vocabulary, merges = _spaces_as_signs(["<unk>", "<s>", "</s>", *_BYTES])
        words = LlamaTokenizer(vocab=vocabulary, merges=merges)
        words.chat_template = _CHAT["llama"]
    return words


def family_model(name: str, rows: int) -> PreTrainedModel:
    """A model whose distributions are far from uniform."""
    torch.manual_seed(0)
    config = type(CONFIGS[name])(**CONFIGS[name].to_dict() | {"vocab_size": rows})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return model.eval()


def _byte_level(specials: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _trained(words, specials, pre_tokenizers.ByteLevel.alphabet())


def _spaces_as_signs(specials: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.normalizer = normalizers.Replace(" ", "▁")
    return _trained(words, specials, [])


def _trained(
    words: Tokenizer, specials: Sequence[str], alphabet: Sequence[str]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(specials), initial_alphabet=list(alphabet),
        show_progress=False,
    )  # fmt: skip
    words.train_from_iterator(_TEXT, trainer)
    model = json.loads(words.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]
