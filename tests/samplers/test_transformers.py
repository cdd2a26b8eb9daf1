"""The sampler against plain forward passes, and what a request may depend on."""

from __future__ import annotations

import contextlib
import itertools
import math
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import BloomConfig, BloomForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from rftt import TransformersSampler
from rftt.samplers.plain import PlainSampler
from rftt.samplers.rng import uniform
from rftt.samplers.sampler import Sample, SampleRequest
from rftt.samplers.transformers.kv_cache import KVCache, SlotSource
from rftt.tokens.automaton import END, TokenAutomaton, stop_automaton
from tests.chi_squared import assert_drawn_from
from tests.models import tiny_model, tokenizer

MASK = 0xFFFFFFFFFFFFFFFF


def _splitmix(seed: int, position: int) -> float:
    """SplitMix64 in whole numbers of Python, from its definition."""
    x = (seed + (position + 1) * 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    x ^= x >> 31
    return (x >> 11) / 2**53


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5), st.integers(0, 10_000))
def test_noise_is_splitmix64(seeds: list[int], position: int) -> None:
    expected = [_splitmix(seed, position) for seed in seeds]
    assert uniform(np.array(seeds), np.full(len(seeds), position)).tolist() == expected


def test_splitmix64_reference_value() -> None:
    # The first output of the published generator for seed 0 is 0xE220A8397B1DCDAF.
    assert _splitmix(0, 0) == (0xE220A8397B1DCDAF >> 11) / 2**53


def _sampler(
    temperature: float = 1.0, batch_size: int = 512, device: str = "cpu"
) -> TransformersSampler:
    model = tiny_model(device=device)
    return TransformersSampler(model, tokenizer(), temperature=temperature, batch_size=batch_size)


def _automaton(sampler: TransformersSampler, stops: tuple[int, ...] = (20, 21)) -> TokenAutomaton:
    return stop_automaton(stops, sampler.tokenizer_size, sampler.vocab_size)


def _next_log_probs(sampler: TransformersSampler, prompts: list[tuple[int, ...]]) -> torch.Tensor:
    """All ids that the tokenizer knows stop, so that all are asked for."""
    automaton = _automaton(sampler, tuple(range(sampler.tokenizer_size)))
    found = sampler.next_log_probs(prompts, [1] * len(prompts), automaton)
    return torch.tensor([list(row.values()) for row in found], dtype=torch.float64)


REQUESTS = [
    SampleRequest(tuple(range(3, 4 + n % 7)), seed=n, state=1, max_tokens=1 + n % 20) for n in range(24)
]


def test_log_probs_are_those_of_a_plain_forward_pass(device: str) -> None:
    for temperature in (1.0, 0.7):
        sampler = _sampler(temperature, device=device)
        for request, sample in zip(REQUESTS, sampler.sample(REQUESTS, _automaton(sampler)), strict=True):
            ids = torch.tensor([request.prompt + sample.ids], device=device)
            with torch.no_grad():
                logits = sampler.model(ids).logits[0, len(request.prompt) - 1 : -1].double().cpu()
            logits[:, sampler.tokenizer_size :] = -torch.inf
            expected = (logits / temperature).log_softmax(-1)
            drawn = expected.gather(1, torch.tensor(sample.ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(sample.log_probs).double(), drawn, atol=1e-4, rtol=0)


def test_samples_end_at_a_stop_or_at_their_limit() -> None:
    sampler = _sampler()
    for request, sample in zip(REQUESTS, sampler.sample(REQUESTS, _automaton(sampler)), strict=True):
        assert 1 <= len(sample.ids) <= request.max_tokens
        assert all(token not in (20, 21) for token in sample.ids[:-1])
        assert sample.ids[-1] in (20, 21) or len(sample.ids) == request.max_tokens


def test_a_sample_does_not_depend_on_its_batch(device: str) -> None:
    large, small = _sampler(device=device), _sampler(batch_size=5, device=device)
    together = large.sample(REQUESTS, _automaton(large))
    backwards = small.sample(REQUESTS[::-1], _automaton(small))[::-1]
    assert [s.ids for s in together] == [s.ids for s in backwards]


def _plain_log_probs(sampler: TransformersSampler, prompt: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        ids = torch.tensor([prompt], device=sampler.model.device)
        logits = sampler.model(ids).logits[0, -1].double().cpu()
    return logits[: sampler.tokenizer_size].log_softmax(-1)


def _assert_drawn_as_by_plain_passes(
    sampler: TransformersSampler, prompt: tuple[int, ...], sample: Sample
) -> None:
    for place, (token, log_prob) in enumerate(zip(sample.ids, sample.log_probs, strict=True)):
        plain = _plain_log_probs(sampler, prompt + sample.ids[:place])
        assert abs(float(plain[token]) - log_prob) < 1e-4


_BYTES_PER_TOKEN = 2 * 2 * 1 * 16 * 4
"""Of the tiny model: sides, layers, heads, dimensions, bytes."""


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(3, 6), min_size=1, max_size=12).map(tuple), min_size=1, max_size=9),
    st.integers(1, 4),
    st.integers(0, 40),
)
def test_what_was_read_before_changes_nothing(
    device: str, prompts: list[tuple[int, ...]], batch_size: int, kept_tokens: int
) -> None:
    """Few ids and short prompts, so that most share their beginnings; and a prefix cache of any size,
    down to none at all. The last time it was filled by other weights."""
    model = tiny_model(device=device)
    sampler = TransformersSampler(
        model, tokenizer(), batch_size=batch_size, prefix_bytes=kept_tokens * _BYTES_PER_TOKEN
    )
    automaton = _automaton(sampler)
    requests = [SampleRequest(prompt, seed, 1, 6) for seed, prompt in enumerate(prompts)]
    for weights in (None, None, tiny_model(seed=1).state_dict()):
        if weights is not None:
            model.load_state_dict(weights)
        for request, sample in zip(requests, sampler.sample(requests, automaton), strict=True):
            _assert_drawn_as_by_plain_passes(sampler, request.prompt, sample)
        for prompt, row in zip(prompts, _next_log_probs(sampler, prompts), strict=True):
            torch.testing.assert_close(row, _plain_log_probs(sampler, prompt), atol=1e-4, rtol=0)


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(3, 5), min_size=1, max_size=5).map(tuple),
            st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=4),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 4),
    st.sampled_from((0, 20, 10_000)),
)
def test_requests_that_go_on_where_others_ended_are_read_in_full(
    device: str,
    dialogues: list[tuple[tuple[int, ...], list[tuple[int, int]]]],
    batch_size: int,
    kept_tokens: int,
) -> None:
    """Each turn is so many new ids and a sample of so many at most; the next one is asked for as soon as
    a sample is there, while others are under way."""
    sampler = TransformersSampler(
        tiny_model(device=device), tokenizer(), batch_size=batch_size,
        prefix_bytes=kept_tokens * _BYTES_PER_TOKEN,
    )  # fmt: skip
    stream = sampler.stream(_automaton(sampler))
    under_way: dict[int, SampleRequest] = {}

    coming = [iter(turns) for _, turns in dialogues]

    def ask(number: int, context: tuple[int, ...]) -> None:
        for new, limit in itertools.islice(coming[number], 1):
            under_way[number] = SampleRequest(context + (7,) * new, number, 1, limit)
            stream.add(number, under_way[number])

    for number, (opening, _) in enumerate(dialogues):
        ask(number, opening)
    while done := stream.collect():
        for number, sample in done:
            prompt = under_way.pop(number).prompt
            _assert_drawn_as_by_plain_passes(sampler, prompt, sample)
            ask(number, prompt + sample.ids)
    assert not under_way
    assert not any(list(turns) for turns in coming)


def test_a_sample_may_be_far_longer_than_its_prompt() -> None:
    sampler = _sampler()
    (sample,) = sampler.sample([SampleRequest((3, 4), 0, 1, 300)], _automaton(sampler, ()))
    assert len(sample.ids) == 300
    plain = _plain_log_probs(sampler, (3, 4, *sample.ids[:-1]))
    assert abs(float(plain[sample.ids[-1]]) - sample.log_probs[-1]) < 1e-4


def test_a_request_that_goes_on_where_another_ended_is_read_in_full() -> None:
    """The last id of a sample is drawn and not read, and others that begin with all of it move in."""
    sampler = _sampler(batch_size=2)
    automaton = _automaton(sampler, ())
    ended = SampleRequest((3, 4, 5), 0, 1, 4)
    (sample,) = sampler.sample([ended], automaton)
    sampler.forget()
    longer = SampleRequest((*ended.prompt, *sample.ids, 6), 1, 1, 8)
    _, other = sampler.sample([ended, longer], automaton)
    _assert_drawn_as_by_plain_passes(sampler, longer.prompt, other)


def test_prompts_of_unlike_lengths_run_together(device: str) -> None:
    requests = [
        SampleRequest(
            tuple(3 + (7 * place + seed) % 40 for place in range(length)), seed, 1, 1 + seed % 9
        )
        for seed, length in enumerate([2, 150, 3, 70, 9, 33, 2, 140, 20, 71, 5, 36])
    ]
    sampler = _sampler(batch_size=5, device=device)
    samples = sampler.sample(requests, _automaton(sampler))
    for request, sample in zip(requests, samples, strict=True):
        _assert_drawn_as_by_plain_passes(sampler, request.prompt, sample)


def test_a_pass_that_failed_can_be_tried_again() -> None:
    sampler = _sampler(batch_size=8)
    automaton = _automaton(sampler)
    expected = _sampler(batch_size=8).sample(REQUESTS, automaton)
    passes = itertools.count()

    def fail(*_: object) -> None:
        if next(passes) % 3 == 0:
            raise MemoryError("no room")

    sampler.model.register_forward_pre_hook(fail)
    stream = sampler.stream(automaton)
    for number, request in enumerate(REQUESTS):
        stream.add(number, request)
    samples: dict[int, Sample] = {}
    while len(samples) < len(REQUESTS):
        with contextlib.suppress(MemoryError):
            samples |= stream.collect()
    assert [samples[number].ids for number in range(len(REQUESTS))] == [s.ids for s in expected]


def _fail(*_: object) -> None:
    raise MemoryError("no room")


def test_nothing_is_left_of_a_pass_that_failed() -> None:
    sampler = _sampler(batch_size=2)
    automaton = _automaton(sampler, ())
    failing = sampler.model.register_forward_pre_hook(_fail)
    stream = sampler.stream(automaton)
    prompt = (5, 6, 7, 8, 9)
    stream.add(0, SampleRequest((3, 4), 0, 1, 4))
    stream.add(1, SampleRequest(prompt, 0, 1, 4))
    with pytest.raises(MemoryError):
        stream.collect()
    failing.remove()
    # The second waits for what they share, and comes to the row where that was not read.
    requests = [SampleRequest(prompt, 0, 1, 4), SampleRequest((*prompt, 3), 1, 1, 4)]
    for request, sample in zip(requests, sampler.sample(requests, automaton), strict=True):
        _assert_drawn_as_by_plain_passes(sampler, request.prompt, sample)


def test_a_slot_that_a_failed_pass_wrote_to_is_not_taken_for_what_it_was() -> None:
    sampler = _sampler(batch_size=1)
    automaton = _automaton(sampler, ())
    one, other = (SampleRequest(tuple(range(start, start + 8)), 0, 1, 4) for start in (3, 13))
    sampler.sample([other], automaton)
    sampler.sample([one], automaton)
    failing = sampler.model.register_forward_pre_hook(_fail)
    with pytest.raises(MemoryError):
        sampler.sample([other], automaton)
    failing.remove()
    (sample,) = sampler.sample([one], automaton)
    _assert_drawn_as_by_plain_passes(sampler, one.prompt, sample)


def test_other_weights_are_noticed() -> None:
    sampler = _sampler()
    before = _next_log_probs(sampler, [(3, 4, 5)])
    sampler.model.load_state_dict(tiny_model(seed=1).state_dict())
    (after,) = _next_log_probs(sampler, [(3, 4, 5)])
    assert not torch.allclose(before[0], after)
    torch.testing.assert_close(after, _plain_log_probs(sampler, (3, 4, 5)), atol=1e-4, rtol=0)


def _ids_read(sampler: TransformersSampler) -> list[int]:
    """How many ids each pass from now on reads, as they come."""
    read: list[int] = []

    def count(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        if "position_ids" in kwargs:  # not a plain pass
            read.append(kwargs["input_ids"].numel())

    sampler.model.register_forward_pre_hook(count, with_kwargs=True)
    return read


def test_a_shared_prompt_is_read_once() -> None:
    sampler = _sampler()
    read = _ids_read(sampler)
    prompt = tuple(3 + i % 5 for i in range(100))
    sampler.sample([SampleRequest(prompt, seed, 1, 1) for seed in range(16)], _automaton(sampler))
    assert sum(read) == 100


def test_a_beginning_that_prompts_share_is_read_once() -> None:
    sampler = _sampler()
    read = _ids_read(sampler)
    beginning = tuple(3 + i % 5 for i in range(100))
    requests = [SampleRequest((*beginning, 10 + n, 30), n, 1, 1) for n in range(16)]
    sampler.sample(requests, _automaton(sampler))
    assert sum(read) == 100 + 16 * 2


def test_what_goes_on_where_another_ended_is_not_computed_again() -> None:
    """A completion of many steps needs no prefix cache: its slot still holds what came before."""
    sampler = TransformersSampler(tiny_model(), tokenizer(), prefix_bytes=0)
    stream = sampler.stream(_automaton(sampler, ()))
    contexts = {n: tuple(3 + n + i % 9 for i in range(30 + n)) for n in range(5)}
    expected = sum(map(len, contexts.values())) + 5 * 3 + 2 * 5 * 6
    read = _ids_read(sampler)
    for turn in range(3):
        for number, context in contexts.items():
            stream.add(number, SampleRequest(context, turn, 1, 4))
        while done := stream.collect():
            for number, sample in done:
                contexts[number] += (*sample.ids, 7, 8)
    assert sum(read) == expected
    for number, context in contexts.items():
        (sample,) = sampler.sample([SampleRequest(context, number, 1, 4)], _automaton(sampler, ()))
        _assert_drawn_as_by_plain_passes(sampler, context, sample)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_room_for_long_sequences_takes_no_memory_before_it_is_used() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    cache = KVCache(tiny_model())
    before = resident()
    cache.arrange([SlotSource(None, 0, 10)] * 512, limit=20_000, most_bytes=1 << 30)
    cache.tokens(3, 0, 50).fill_(1.0)
    assert cache.store.numel() * 4 > 2_000_000_000
    assert resident() - before < 10_000_000
    # What slots hold is kept when there are more of them.
    more = [SlotSource(slot, 50 if slot == 3 else 0, 50) for slot in range(512)]
    cache.arrange([*more, *[SlotSource(None, 0, 50)] * 88], limit=20_000, most_bytes=1 << 30)
    assert cache.tokens(3, 0, 50).eq(1.0).all()
    assert not cache.tokens(3, 50, 60).any()
    assert resident() - before < 10_000_000
    # Attention reads as many columns of each slot as the longest has.
    assert cache.store[8:16].sum() == 0
    assert resident() - before < 10_000_000


def test_prompts_too_many_for_one_pass_are_read_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rftt.samplers.transformers.scheduler._MAX_PREFILL_IDS", 64)
    sampler = _sampler()
    read = _ids_read(sampler)
    requests = [SampleRequest((3 + n,) * length, n, 1, 1) for n, length in enumerate([30] * 9 + [70])]
    sampler.sample(requests, _automaton(sampler))
    assert sorted(read) == [30, 60, 60, 60, 60, 70]


def _two_kinds(sampler: TransformersSampler) -> TokenAutomaton:
    """In state 2, more ids end a sample than in state 1."""
    one = _automaton(sampler, tuple(range(20, sampler.tokenizer_size)))
    following = torch.full((3, len(one.special_ids)), END)
    following[1, 2:10] = 1
    return evolve(
        one, in_body=torch.ones(3, dtype=torch.bool), following=following,
        allowed=one.allowed[:1].expand(3, -1).clone(),
    )  # fmt: skip


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 3), st.sampled_from((1, 2)), st.integers(1, 9)),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 12),
)
def test_samples_of_one_context_share_its_slot_until_they_part(
    device: str, asked: list[tuple[int, int, int, int]], batch_size: int
) -> None:
    """Few prompts, seeds, states and lengths, so that contexts are shared, part, and end at different
    times."""
    requests = [
        SampleRequest(tuple(range(10 * length, 11 * length)), seed, state, limit)
        for length, seed, state, limit in asked
    ]
    sampler = _sampler(batch_size=batch_size, device=device)
    automaton = _two_kinds(sampler)
    alone = [sampler.sample([request], automaton)[0] for request in requests]
    sampler.forget()
    read = _ids_read(sampler)
    assert [s.ids for s in sampler.sample(requests, automaton)] == [s.ids for s in alone]
    if batch_size >= len(requests) and len({request.state for request in requests}) == 1:
        read_once = {
            (request.prompt + sample.ids)[:length]
            for request, sample in zip(requests, alone, strict=True)
            for length in range(1, len(request.prompt + sample.ids))
        }
        assert sum(read) == len(read_once)


def test_an_empty_prompt_is_refused() -> None:
    sampler = _sampler()
    with pytest.raises(ValueError, match="the prompt is empty"):
        SampleRequest((), 0, 1, 1)
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        sampler.next_log_probs([(3,), ()], [1, 1], _automaton(sampler))


def test_greedy_takes_the_likeliest_id() -> None:
    sampler = _sampler(temperature=0.0)
    (sample,) = sampler.sample([SampleRequest((3, 4), 0, 1, 5)], _automaton(sampler, ()))
    ids = [3, 4]
    for _ in range(5):
        with torch.no_grad():
            logits = sampler.model(torch.tensor([ids])).logits[0, -1]
        ids.append(int(logits[: sampler.tokenizer_size].argmax()))
    assert list(sample.ids) == ids[2:]
    assert sample.log_probs == (0.0,) * 5


def test_frequencies_match_the_distribution_and_masked_ids_never_come(device: str) -> None:
    sampler = TransformersSampler(tiny_model(rows=60, device=device), tokenizer())
    automaton = stop_automaton(range(60), sampler.tokenizer_size, 60)
    n = 20_000
    samples = sampler.sample([SampleRequest((3, 4, 5), seed, 1, 1) for seed in range(n)], automaton)
    counts = torch.bincount(torch.tensor([s.ids[0] for s in samples]), minlength=60)
    (expected,) = sampler.next_log_probs([(3, 4, 5)], [1], automaton)
    assert list(expected) == list(range(sampler.tokenizer_size))
    probabilities = [math.exp(log_prob) for log_prob in expected.values()]
    padding = [0.0] * (60 - len(probabilities))
    assert_drawn_from(probabilities + padding, counts.tolist())


def test_the_model_is_left_as_it_was() -> None:
    sampler = _sampler()
    sampler.model.train()
    attention = sampler.model.config._attn_implementation
    sampler.sample(REQUESTS[:2], _automaton(sampler))
    assert sampler.model.training
    assert sampler.model.config._attn_implementation == attention


def test_attention_is_not_by_cudnn_while_sampling() -> None:
    """Its plans are made for one shape, and every pass has a new one."""
    sampler = _sampler()
    seen: list[bool] = []
    sampler.model.register_forward_pre_hook(
        lambda *_: seen.append(torch.backends.cuda.cudnn_sdp_enabled())
    )
    sampler.sample(REQUESTS[:2], _automaton(sampler))
    sampler.next_log_probs([(3, 4, 5)], [1], _automaton(sampler))
    assert seen
    assert not any(seen)
    assert torch.backends.cuda.cudnn_sdp_enabled(), "after, it is as it was"


def test_a_model_that_computes_attention_itself_is_sampled_with_that(device: str) -> None:
    sampler = _sampler(device=device)
    sampler.model.set_attn_implementation("eager")
    automaton = _automaton(sampler)
    for request, sample in zip(REQUESTS, sampler.sample(REQUESTS, automaton), strict=True):
        plain = _plain_log_probs(sampler, request.prompt + sample.ids[:-1])
        assert abs(float(plain[sample.ids[-1]]) - sample.log_probs[-1]) < 1e-4
    assert sampler.model.config._attn_implementation == "eager"


def test_logits_may_be_part_of_a_larger_matrix() -> None:
    sampler = _sampler()
    automaton = _automaton(sampler, ())
    expected = sampler.sample(REQUESTS, automaton)

    def widened(module: object, args: object, output: CausalLMOutputWithPast) -> None:
        logits = output.logits
        output.logits = torch.nn.functional.pad(logits, (0, 5))[..., : logits.shape[-1]]

    sampler.model.register_forward_hook(widened)
    assert [s.ids for s in sampler.sample(REQUESTS, automaton)] == [s.ids for s in expected]


def test_a_family_whose_attention_cannot_be_replaced_is_refused() -> None:
    config = BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=2)
    with pytest.raises(ValueError, match="BloomForCausalLM does not take attention from"):
        TransformersSampler(BloomForCausalLM(config), tokenizer())


def test_a_model_with_an_adapter_is_sampled_with_it(device: str) -> None:
    config = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    tuned = get_peft_model(tiny_model(device=device), config).eval()
    sampler = TransformersSampler(tuned, tokenizer())
    for request, sample in zip(REQUESTS, sampler.sample(REQUESTS, _automaton(sampler)), strict=True):
        _assert_drawn_as_by_plain_passes(sampler, request.prompt, sample)
    with tuned.disable_adapter():
        without = _plain_log_probs(sampler, (3, 4, 5))
    assert (without - _plain_log_probs(sampler, (3, 4, 5))).abs().max() > 0.1


def test_adapters_that_are_switched_or_disabled_empty_the_prefix_cache() -> None:
    """No parameter changes its version then."""
    config = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    tuned = get_peft_model(tiny_model(), config).eval()
    torch.manual_seed(5)
    tuned.add_adapter("other", config)
    sampler = TransformersSampler(tuned, tokenizer())
    prompt = (3, 4, 5, 6, 7)
    seen = []

    def check() -> None:
        (row,) = _next_log_probs(sampler, [prompt])
        torch.testing.assert_close(row, _plain_log_probs(sampler, prompt), atol=1e-5, rtol=0)
        seen.append(row)

    check()
    tuned.set_adapter("other")
    check()
    with tuned.disable_adapter():
        check()
    check()
    tuned.merge_adapter()
    check()
    assert sampler.prefilled == 5 * len(prompt)
    for a, b in ((0, 1), (1, 2), (0, 2)):
        assert (seen[a] - seen[b]).abs().max() > 0.05


@pytest.mark.parametrize("plain", [False, True])
def test_logits_that_are_not_finite_are_named(plain: bool) -> None:
    """A search among weights of which one is NaN raised an index error, or drew an id."""
    model = tiny_model()
    model.config._name_or_path = "runs/broken"
    with torch.no_grad():
        model.get_output_embeddings().weight[7] = torch.nan
    sampler = PlainSampler(model, tokenizer()) if plain else TransformersSampler(model, tokenizer())
    automaton = stop_automaton([2], sampler.tokenizer_size, sampler.vocab_size)
    message = "LlamaForCausalLM from runs/broken: the logits are NaN or infinite"
    with pytest.raises(FloatingPointError, match=rf"{message} .* seed 4 after a prompt of 3 ids"):
        sampler.sample([SampleRequest((3, 4, 5), 4, 1, 9)], automaton)
    with pytest.raises(FloatingPointError, match=rf"{message} after prompt 0 of 1, of 3 ids"):
        sampler.next_log_probs([(3, 4, 5)], [1], automaton)


def test_a_model_may_be_moved_to_another_type() -> None:
    sampler = _sampler()
    automaton = _automaton(sampler)
    sampler.sample(REQUESTS, automaton)
    read = sampler.prefilled
    sampler.model.double()
    sampler.sample(REQUESTS, automaton)
    assert sampler.prefilled == 2 * read
    (row,) = _next_log_probs(sampler, [(3, 4, 5)])
    torch.testing.assert_close(row, _plain_log_probs(sampler, (3, 4, 5)), atol=1e-6, rtol=0)


@pytest.mark.gpu
def test_a_model_may_be_moved_to_a_gpu_and_back() -> None:
    sampler = _sampler()
    automaton = _automaton(sampler)
    for device in ("cpu", "cuda", "cpu"):
        sampler.model.to(device)
        for request, sample in zip(REQUESTS, sampler.sample(REQUESTS, automaton), strict=True):
            _assert_drawn_as_by_plain_passes(sampler, request.prompt, sample)
        (row,) = _next_log_probs(sampler, [(3, 4, 5)])
        torch.testing.assert_close(row, _plain_log_probs(sampler, (3, 4, 5)), atol=1e-4, rtol=0)
