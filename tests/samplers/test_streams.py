"""What a stream of the transformers sampler promises while streams, weights and adapters change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from rftt import TransformersSampler
from rftt.fingerprint import difference, fingerprint
from rftt.samplers.plain import PlainSampler
from rftt.samplers.sampler import Sample, Sampler, SampleRequest, SampleStream
from rftt.tokens.automaton import TokenAutomaton, stop_automaton
from tests.models import functional_policy, tiny_model, tokenizer

REQUESTS = [
    SampleRequest(tuple(range(3, 4 + n % 7)), seed=n, state=1, max_tokens=1 + n % 20) for n in range(12)
]


def _automaton(sampler: Sampler, stops: tuple[int, ...] = (20, 21)) -> TokenAutomaton:
    return stop_automaton(stops, sampler.tokenizer_size, sampler.vocab_size)


def _started(sampler: Sampler, automaton: TokenAutomaton) -> SampleStream:
    """A stream of which one request is done and others are in flight."""
    stream = sampler.stream(automaton)
    for number, request in enumerate(REQUESTS):
        stream.add(number, request)
    assert stream.collect()
    return stream


def test_a_newer_stream_ends_the_older() -> None:
    """It used to go on in slots that the newer one had written to."""
    sampler = TransformersSampler(tiny_model(), tokenizer(), batch_size=4)
    older = _started(sampler, _automaton(sampler))
    newer = _started(sampler, _automaton(sampler))
    with pytest.raises(RuntimeError, match="ended by a newer stream"):
        older.collect()
    assert newer.collect()


def test_newer_weights_end_a_stream() -> None:
    sampler = TransformersSampler(tiny_model(), tokenizer(), batch_size=4)
    stream = _started(sampler, _automaton(sampler))
    sampler.model.load_state_dict(tiny_model(seed=1).state_dict())
    with pytest.raises(RuntimeError, match="newer weights"):
        stream.collect()


def test_a_stream_with_nothing_in_flight_ends_in_peace() -> None:
    sampler = TransformersSampler(tiny_model(), tokenizer())
    stream = _started(sampler, _automaton(sampler))
    while stream.collect():
        pass
    sampler.sample(REQUESTS, _automaton(sampler))
    assert stream.collect() == []


@pytest.mark.parametrize("batch_size", [2, 64])
def test_scores_may_be_asked_for_while_a_stream_is_in_flight(batch_size: int) -> None:
    policy = functional_policy(batch_size=batch_size)
    sampler, grammar = policy.sampler, policy.automaton
    assert isinstance(sampler, TransformersSampler)
    stop = _automaton(sampler)
    prompts = [(3, 4, 5), (3, 4, 6, 7), (9,), (3, 4, 5), (3, 4, 5)]
    states = [1, grammar.between["verify"], 1, grammar.within["verify"], 1]
    expected = sampler.sample(REQUESTS, stop)
    alone = [sampler.next_log_probs([p], [s], grammar)[0] for p, s in zip(prompts, states, strict=True)]
    sampler.forget()
    stream = sampler.stream(stop)
    for number, request in enumerate(REQUESTS):
        stream.add(number, request)
    samples: dict[int, Sample] = {}
    while done := stream.collect():
        samples.update(done)
        scores = sampler.next_log_probs(prompts, states, grammar)
        for score, by_itself in zip(scores, alone, strict=True):
            assert score == pytest.approx(by_itself, abs=1e-4)
    assert [samples[n].ids for n in range(len(REQUESTS))] == [sample.ids for sample in expected]


def test_scores_are_of_the_allowed_special_ids_over_all_allowed() -> None:
    policy = functional_policy()
    grammar, tokens = policy.automaton, policy.tokens
    inside, start = policy.sampler.next_log_probs(
        [(3, 4, 5)] * 2, [grammar.within["verify"], grammar.between[None]], grammar
    )
    assert list(inside) == [tokens.closers["verify"]]
    assert -20 < inside[tokens.closers["verify"]] < 0
    assert set(start) == {tokens.openers[name] for name in tokens.grammar.start}
    assert torch.tensor(list(start.values())).exp().sum() == pytest.approx(1, abs=1e-5)
    endless = _automaton(policy.sampler, ())
    assert policy.sampler.next_log_probs([(3, 4, 5)], [1], endless) == [{}]


def _tuned() -> PeftModel:
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    tuned = get_peft_model(tiny_model(), config, adapter_name="first")
    tuned.add_adapter("second", config)
    return tuned.eval()


def _switch(model: PeftModel) -> None:
    model.set_adapter("second")


def _disable(model: PeftModel) -> None:
    model.base_model.disable_adapter_layers()


def _scale(model: PeftModel) -> None:
    for module in model.modules():
        if hasattr(module, "scale_layer"):
            module.scale_layer(3.0)


@pytest.mark.parametrize("change", [_switch, _disable, _scale])
def test_a_change_of_adapter_is_noticed(change: Callable[[PeftModel], None]) -> None:
    """It changes no parameter, so what was computed before used to be taken for the adapter's."""
    model = _tuned()
    sampler = TransformersSampler(model, tokenizer())
    automaton = _automaton(sampler)
    prompt = tuple(range(3, 15))
    sampler.sample([SampleRequest(prompt, 0, 1, 5)], automaton)
    change(model)
    (sample,) = sampler.sample([SampleRequest(prompt, 0, 1, 5)], automaton)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + sample.ids])).logits[0, len(prompt) - 1 : -1].double()
    log_probs = logits[:, : sampler.tokenizer_size].log_softmax(-1)
    expected = log_probs.gather(1, torch.tensor(sample.ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(sample.log_probs).double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [TransformersSampler, PlainSampler])
def test_fingerprints_tell_what_is_drawn_differently(kind: type[TransformersSampler]) -> None:
    words = tokenizer()
    own = fingerprint(kind(_tuned(), words))
    assert difference(own, fingerprint(kind(_tuned(), words, batch_size=3))) is None
    assert "temperature" in str(difference(own, fingerprint(kind(_tuned(), words, temperature=0.7))))
    for change in (_switch, _disable, _scale):
        model = _tuned()
        change(model)
        assert "adapters" in str(difference(own, fingerprint(kind(model, words))))
    model = _tuned()
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert "model" in str(difference(own, fingerprint(kind(model, words))))
