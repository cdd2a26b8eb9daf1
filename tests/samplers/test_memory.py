"""What sampling takes of memory is bounded, and samples do not depend on the bound."""

from __future__ import annotations

import multiprocessing
import re
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rftt import TransformersSampler
from rftt.samplers.plain import PlainSampler
from rftt.samplers.sampler import SampleRequest
from rftt.samplers.transformers.kv_cache import KVCache, SlotSource
from rftt.samplers.transformers.memory import WORKSPACE_BYTES
from rftt.tokens.automaton import stop_automaton
from tests.models import tiny_model, tokenizer

MIB = 1 << 20
VOCABULARY = 20_000


def _wide_model() -> PreTrainedModel:
    """A tiny model, but for its vocabulary and context."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=4, intermediate_size=64,
        num_attention_heads=2, num_key_value_heads=2, head_dim=64, max_position_embeddings=4096,
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


LONG = [
    SampleRequest((*((7 * i * i) % 1000 for i in range((300, 600, 900)[n % 3])), n), n, 1, 3)
    for n in range(40)
]
"""Each of them takes megabytes, and most is computed once."""


def _long_model() -> PreTrainedModel:
    """A model of one layer whose keys and values fill a page of the system's every four ids."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, intermediate_size=64,
        num_attention_heads=1, head_dim=256, max_position_embeddings=512,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8.0)
    return model.eval()


def _sample(
    model: PreTrainedModel,
    memory_bytes: int | None,
    requests: list[SampleRequest],
    prefix_bytes: int | None = None,
) -> list[tuple[int, ...]]:
    sampler = TransformersSampler(
        model, tokenizer(), memory_bytes=memory_bytes, prefix_bytes=prefix_bytes
    )
    automaton = stop_automaton((), sampler.vocab_size, sampler.vocab_size)
    return [sample.ids for sample in sampler.sample(requests, automaton)]


def _status(name: str) -> int:
    """Return a figure of ``/proc/self/status`` in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def _report_peaks(answers: Connection, budgets: list[int | None]) -> None:
    """Send, for each budget, by how much the peak of this process is above what it took before, and the
    samples."""
    torch.set_num_threads(1)
    model = _wide_model()
    _sample(model, None, [SampleRequest((1, 2, 3), 0, 1, 2)])
    for budget in budgets:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        samples = _sample(model, budget, LONG)
        answers.send((_status("VmHWM") - before, samples))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_the_peak_stays_within_the_budget(start: str) -> None:
    """In a process of its own, where nothing that was freed before is taken again: what is forked has
    some of that."""
    context = multiprocessing.get_context(start)
    answers, send = context.Pipe(duplex=False)
    budgets = [52 * MIB, None]
    process = context.Process(target=_report_peaks, args=(send, budgets))
    process.start()
    send.close()
    (peak, samples), (more, expected) = [answers.recv() for _ in budgets]
    process.join()
    assert peak < 52 * MIB
    assert more > 80 * MIB, "what it takes where it may"
    assert samples == expected


@settings(max_examples=5)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(1, 80)), min_size=1, max_size=6
    ),
    st.integers(1300, 2500),
)
def test_samples_do_not_depend_on_the_budget(asked: list[tuple[int, int, int]], kib: int) -> None:
    """Prompts are few, so that contexts are shared and part. Samples are many times as long as their
    prompts, so that sequences that began together outgrow their memory."""
    requests = [
        SampleRequest(tuple(range(3, 3 + length)), seed, 1, limit) for length, seed, limit in asked
    ]
    model = _long_model()
    found = _sample(model, WORKSPACE_BYTES + (kib << 10), requests, prefix_bytes=0)
    assert found == _sample(model, None, requests)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("slots", [60, 64])
def test_slots_give_back_what_longer_sequences_took(slots: int) -> None:
    """Eight long sequences, then many short ones, of which two take what long ones begin with; in the
    same store, and in a larger one."""
    cache = KVCache(_wide_model())
    cache.arrange([SlotSource(None, 0, 1)] * 60, limit=1000, most_bytes=64 * MIB)
    before = _status("VmRSS")
    cache.arrange([SlotSource(None, 0, 1000)] * 8, limit=1000, most_bytes=64 * MIB)
    for slot in range(8):
        cache.tokens(slot, 0, 1000).fill_(1.0 + slot)
    sources = {2: 2, slots - 1: 5}
    short = [SlotSource(sources.get(slot), 100, 100) for slot in range(slots)]
    cache.arrange(short, limit=1000, most_bytes=cache.memory_bytes([100] * slots))
    for slot in range(slots):
        if slot in sources:
            assert cache.tokens(slot, 0, 100).eq(1.0 + sources[slot]).all()
        cache.tokens(slot, 0, 100).fill_(1.0)
    assert _status("VmRSS") - before < cache.memory_bytes([100] * slots) + 4 * MIB


def test_sequences_that_outgrow_their_memory_begin_again() -> None:
    requests = [SampleRequest((3, 4, 5 + n % 2), n, 1, 100 + n) for n in range(8)]
    model = _long_model()
    expected = _sample(model, None, requests)
    running: list[int] = []
    model.register_forward_pre_hook(
        lambda _, args, given: running.append(given["logits_to_keep"]), with_kwargs=True
    )
    assert _sample(model, WORKSPACE_BYTES + (1450 << 10), requests, prefix_bytes=0) == expected
    assert max(running) == 8
    assert len(running) > 120, "not all of them ran to their ends together"


def test_a_prompt_is_computed_in_as_many_passes_as_its_memory_makes_of_it() -> None:
    prompt = tuple((7 * i * i) % 1000 for i in range(2000))
    model = _wide_model()
    read: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    found = _sample(model, 80 * MIB, [SampleRequest(prompt, 5, 1, 2)])
    assert len(read) > 3
    assert sum(read) == 2001
    hook.remove()
    assert _sample(model, None, [SampleRequest(prompt, 5, 1, 2)]) == found


def test_of_a_prompt_only_the_last_logits_are_computed() -> None:
    """The plain sampler computed those of all its ids: gigabytes for a batch of long prompts."""
    model = tiny_model()
    computed: list[int] = []
    model.register_forward_hook(lambda module, args, output: computed.append(output.logits.shape[1]))
    sampler = PlainSampler(model, tokenizer())
    automaton = stop_automaton((), sampler.vocab_size, sampler.vocab_size)
    sampler.sample([SampleRequest((3, 4, 5), 0, 1, 2), SampleRequest((3,), 0, 1, 2)], automaton)
    sampler.next_log_probs([(3, 4, 5)], [1], automaton)
    assert computed == [1, 1, 1]


def test_a_budget_that_cannot_hold_one_sequence_is_refused() -> None:
    model = tiny_model()
    with pytest.raises(
        ValueError, match="memory_bytes=1000 cannot hold one sequence: a prompt of 1 ids"
    ):
        TransformersSampler(model, tokenizer(), memory_bytes=1000)
    with pytest.raises(ValueError, match="1073741824 of them for the prefix cache"):
        TransformersSampler(model, tokenizer(), memory_bytes=1 << 30, prefix_bytes=1 << 30)

    wide = _wide_model()
    message = "memory_bytes=52428800 cannot hold one sequence: a prompt of 3000 ids and up to 9 more"
    sampler = TransformersSampler(wide, tokenizer(), memory_bytes=50 * MIB)
    automaton = stop_automaton((), VOCABULARY, VOCABULARY)
    prompt = (3,) * 3000
    with pytest.raises(ValueError, match=message) as refused:
        sampler.stream(automaton).add(0, SampleRequest(prompt, 0, 1, 9))
    with pytest.raises(ValueError, match="a prompt of 3000 ids and up to 0 more need"):
        sampler.next_log_probs([prompt], [1], automaton)
    enough = re.search(r"need about (\d+)", str(refused.value))
    assert enough is not None
    sampler = TransformersSampler(wide, tokenizer(), memory_bytes=int(enough[1]))
    sampler.stream(automaton).add(0, SampleRequest(prompt, 0, 1, 9))
