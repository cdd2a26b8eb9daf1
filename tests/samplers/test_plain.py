"""The reference sampler against forward passes without padding, and the fast one against it."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    GPT2Config,
    GPTJConfig,
    MambaConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from rftt import FunctionalTokens, Grammar, SamplingParams, TransformersSampler
from rftt.samplers.plain import PlainSampler
from rftt.samplers.sampler import SampleRequest
from rftt.tokens.automaton import TokenAutomaton, grammar_automaton, stop_automaton
from tests.families import CONFIGS, family_model, family_tokenizer
from tests.models import tiny_model, tokenizer

OTHERS: dict[str, PreTrainedConfig] = {
    "bloom": BloomConfig(hidden_size=32, n_layer=2, n_head=2, vocab_size=70),
    "falcon": FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=70),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=70),
    "gptj": GPTJConfig(n_embd=32, n_layer=2, n_head=2, rotary_dim=8, vocab_size=70),
    "opt": OPTConfig(
        hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=2, vocab_size=70,
        word_embed_proj_dim=32,
    ),
}  # fmt: skip
"""Learned positions, positions from the mask, none but in attention: all that padding can harm."""


def _model(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return model.eval()


def _requests(size: int, state: int, count: int = 20) -> list[SampleRequest]:
    """Mixed lengths, beginnings in common, and both ways to end."""
    return [
        SampleRequest(
            tuple((3 + (n % 3) * place) % size for place in range(1, 2 + 7 * n % 40)),
            seed=n, state=state, max_tokens=1 + 5 * n % 24, until="step" if n % 2 else "solution",
        )
        for n in range(count)
    ]  # fmt: skip


def _assert_same_samples(
    fast: TransformersSampler,
    plain: PlainSampler,
    requests: list[SampleRequest],
    automaton: TokenAutomaton,
) -> None:
    samples = zip(fast.sample(requests, automaton), plain.sample(requests, automaton), strict=True)
    for ours, reference in samples:
        assert ours.ids == reference.ids
        assert ours.log_probs == pytest.approx(reference.log_probs, abs=1e-4)
    prompts = [request.prompt for request in requests]
    states = [request.state for request in requests]
    scores = (sampler.next_log_probs(prompts, states, automaton) for sampler in (fast, plain))
    for mine, expected in zip(*scores, strict=True):
        assert mine == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_fast_and_plain_draw_the_same_ids(name: str) -> None:
    words = family_tokenizer(name)
    ordinary = len(words)
    tokens = FunctionalTokens.add(words, Grammar.default())
    model = family_model(name, len(words) + 3)
    sizes = {"tokenizer_size": len(words), "vocab_size": len(words) + 3}
    fast, plain = (
        TransformersSampler(model, words, batch_size=7),
        PlainSampler(model, words, batch_size=7),
    )
    stop = stop_automaton(range(0, ordinary, 9), **sizes)
    _assert_same_samples(fast, plain, _requests(ordinary, 1), stop)
    grammar = grammar_automaton(tokens, **sizes)
    for state in (grammar.between[None], grammar.within["verify"]):
        _assert_same_samples(fast, plain, _requests(ordinary, state), grammar)


@pytest.mark.parametrize(
    "params", [SamplingParams(0.0), SamplingParams(0.7, 0.9, 0.01)], ids=["greedy", "truncated"]
)
def test_fast_and_plain_make_the_same_of_logits(params: SamplingParams) -> None:
    model, words = tiny_model(), tokenizer()
    settings = {"temperature": params.temperature, "top_p": params.top_p, "min_p": params.min_p}
    fast, plain = TransformersSampler(model, words, **settings), PlainSampler(model, words, **settings)
    automaton = stop_automaton((20, 21), len(words), plain.vocab_size)
    _assert_same_samples(fast, plain, _requests(40, 1), automaton)


@pytest.mark.parametrize("name", OTHERS)
def test_padding_and_cache_change_nothing(name: str) -> None:
    sampler = PlainSampler(_model(OTHERS[name]), tokenizer())
    automaton = stop_automaton((20, 21), sampler.tokenizer_size, sampler.vocab_size)
    requests = _requests(40, 1)
    for request, sample in zip(requests, sampler.sample(requests, automaton), strict=True):
        with torch.no_grad():
            logits = sampler.model(torch.tensor([request.prompt + sample.ids])).logits[0].double()
        logits = logits[len(request.prompt) - 1 : -1, : sampler.tokenizer_size]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(sample.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(sample.log_probs).double(), expected, atol=1e-4, rtol=0)


def test_lower_keys_go_first_and_a_stream_goes_on() -> None:
    sampler = PlainSampler(tiny_model(), tokenizer(), batch_size=2)
    automaton = stop_automaton((20, 21), sampler.tokenizer_size, sampler.vocab_size)
    stream = sampler.stream(automaton)
    requests = _requests(40, 1, 4)
    for key in (3, 1, 2):
        stream.add(key, requests[key])
    first = stream.collect()
    assert [key for key, _ in first] == [1, 2]
    stream.add(0, requests[0])
    rest = stream.collect()
    assert [key for key, _ in rest] == [0, 3]
    assert stream.collect() == []
    expected = sampler.sample(requests, automaton)
    assert [sample.ids for _, sample in sorted([*first, *rest], key=lambda pair: pair[0])] == [
        sample.ids for sample in expected
    ]


def test_a_recurrent_model_is_refused() -> None:
    config = MambaConfig(vocab_size=70, hidden_size=32, state_size=4, num_hidden_layers=1)
    with pytest.raises(ValueError, match="MambaForCausalLM is recurrent"):
        PlainSampler(AutoModelForCausalLM.from_config(config), tokenizer())


def test_the_model_is_left_in_training() -> None:
    sampler = PlainSampler(tiny_model().train(), tokenizer())
    automaton = stop_automaton((20, 21), sampler.tokenizer_size, sampler.vocab_size)
    sampler.sample(_requests(40, 1, 3), automaton)
    assert sampler.model.training
