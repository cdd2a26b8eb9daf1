"""How fast each sampler is in a search: python benchmarks/sampling.py --data PATH/asdiv.jsonl

A search of 64 problems by prompts (MCTS; nano: 16 rollouts, all of a tree's in one round; SmolLM2: 4) is
run by each sampler that is installed, in rounds and streaming. ``share_of_raw`` is the search's sampled
tokens a second over the engine's own at the same batch: ``generate`` of transformers, or of vLLM with
its prefix cache, given the search's prompts all at once and told to sample as many ids for each as the
search did. transformers' ``generate`` is given them in batches of like length, a few drawn at random.

``prefill_ratio`` is the number of prompt ids that were computed over the distinct tokens of the trees:
equal tokens after equal ids count once. ``prefill_over_needed`` is stricter: over the distinct tokens of
prompts that no sample had computed before. ``occupancy`` is the sampled tokens over what so many forward
passes could have sampled with the batch full. The last line is JSON. Set TORCH_COMPILE_DISABLE=1 where
vLLM is to do without a compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import torch
from attrs import define, evolve, field, frozen
from machine import machine
from search_schedule import nano, smollm2
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt import (
    MCTS,
    Budget,
    MathVerifier,
    Problem,
    PromptedPolicy,
    Sampler,
    SearchConfig,
    TransformersSampler,
    run_search,
)
from rftt.samplers.sampler import Sample, SampleRequest, SampleStream
from rftt.samplers.transformers.prefix_cache import EMPTY, extend_hash
from rftt.samplers.vllm.sampler import VLLMSampler
from rftt.tokens.automaton import TokenAutomaton


@frozen
class Job:
    """One model's search."""

    policy: PromptedPolicy
    source: TransformersSampler
    problems: Sequence[Problem]
    batch: int
    max_tokens: int
    rollouts: int
    simulations_per_round: int
    raw: int
    """Batches of prompts that transformers' ``generate`` is given."""
    length: int
    """Ids of the longest context."""


@define
class Log(SampleStream):
    """A stream that keeps the requests and samples that go through it."""

    stream: SampleStream
    requests: dict[int, SampleRequest] = field(factory=dict)
    done: list[tuple[SampleRequest, Sample]] = field(factory=list)

    def add(self, key: int, request: SampleRequest) -> None:
        self.requests[key] = request
        self.stream.add(key, request)

    def collect(self) -> list[tuple[int, Sample]]:
        done = self.stream.collect()
        self.done += [(self.requests.pop(key), sample) for key, sample in done]
        return done


class Logged(Sampler):
    """A sampler whose streams are logged."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.sampling_params = sampler.sampling_params
        self.tokenizer_size, self.vocab_size = sampler.tokenizer_size, sampler.vocab_size
        self.logs: list[Log] = []

    def stream(self, automaton: TokenAutomaton) -> SampleStream:
        self.logs.append(Log(self.sampler.stream(automaton)))
        return self.logs[-1]

    def next_log_probs(
        self, prompts: Sequence[tuple[int, ...]], states: Sequence[int], automaton: TokenAutomaton
    ) -> list[dict[int, float]]:
        return self.sampler.next_log_probs(prompts, states, automaton)

    def __fingerprint__(self) -> Mapping[str, Any]:
        return self.sampler.__fingerprint__()

    @property
    def done(self) -> list[tuple[SampleRequest, Sample]]:
        return [pair for log in self.logs for pair in log.done]


def search(job: Job, sampler: Sampler, seed: int, *, streaming: bool) -> tuple[Logged, float]:
    """Search, and return what was sampled and the seconds it took."""
    logged = Logged(sampler)
    job.policy.sampler = logged
    searcher = MCTS(exploration=2.0, width=2, simulations_per_round=job.simulations_per_round)
    config = SearchConfig(
        Budget(rollouts=job.rollouts), seed=seed, max_depth=15, max_tokens=job.max_tokens,
        streaming=streaming,
    )  # fmt: skip
    start = time.perf_counter()
    run_search(job.problems, searcher, job.policy, MathVerifier(), config)
    return logged, time.perf_counter() - start


def distinct(done: Sequence[tuple[SampleRequest, Sample]]) -> tuple[int, int]:
    """Return the number of distinct tokens of the trees; and of prompts, without those that were
    computed as they were sampled."""
    prompted: set[int] = set()
    sampled: set[int] = set()
    last: set[int] = set()
    for request, sample in done:
        key = EMPTY
        for token in request.prompt:
            key = extend_hash(key, token)
            prompted.add(key)
        for token in sample.ids[:-1]:
            key = extend_hash(key, token)
            sampled.add(key)
        last.add(extend_hash(key, sample.ids[-1]))
    return len(prompted | sampled | last), len(prompted - sampled)


def figures(
    job: Job,
    sampler: TransformersSampler | VLLMSampler,
    forget: Callable[[], object],
    passes: Callable[[], int],
    raw: Callable[[Sequence[tuple[SampleRequest, Sample]]], float],
    seed: int,
) -> dict[str, float]:
    """Measure rounds and streaming with one sampler, and the sampler's engine alone."""
    search(evolve(job, problems=job.problems[:8]), sampler, seed + 1, streaming=False)
    found: dict[str, float] = {}
    for name, streaming in (("stream", True), ("rounds", False)):
        forget()
        read, steps = sampler.prefilled, passes()
        logged, seconds = search(job, sampler, seed, streaming=streaming)
        tokens = sum(len(sample.ids) for _, sample in logged.done)
        found[f"tokens_per_s_{name}"] = round(tokens / seconds, 1)
        found[f"occupancy_{name}"] = round(tokens / (passes() - steps) / job.batch, 3)
        read = sampler.prefilled - read
    forget()
    raw_speed = raw(logged.done)
    tree_tokens, needed = distinct(logged.done)
    return found | {
        "tokens": tokens,
        "raw_tokens_per_s": round(raw_speed, 1),
        "share_of_raw": round(found["tokens_per_s_rounds"] / raw_speed, 3),
        "share_of_raw_stream": round(found["tokens_per_s_stream"] / raw_speed, 3),
        "prefill_ratio": round(read / tree_tokens, 3),
        "prefill_over_needed": round(read / needed, 3),
    }


def with_transformers(job: Job, chosen: argparse.Namespace) -> dict[str, float]:
    sampler = TransformersSampler(job.source.model, job.source.tokenizer, batch_size=job.batch)
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    hook = sampler.model.register_forward_pre_hook(count)

    def raw(done: Sequence[tuple[SampleRequest, Sample]]) -> float:
        hook.remove()
        ordered = sorted(done, key=lambda pair: (len(pair[0].prompt), len(pair[1].ids)))
        starts = range(0, len(ordered), job.batch)
        batches = [ordered[start : start + job.batch] for start in starts]
        some = Random(chosen.seed).sample(batches, min(job.raw, len(batches)))
        return generate(sampler.model, sampler.tokenizer, some)

    return figures(job, sampler, sampler.forget, lambda: steps, raw, chosen.seed)


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batches: Sequence[Sequence[tuple[SampleRequest, Sample]]],
) -> float:
    """Return the tokens a second of transformers' ``generate``; what it samples beyond a request's own
    number does not count."""
    start, tokens = time.perf_counter(), 0
    for batch in batches:
        width = max(len(request.prompt) for request, _ in batch)
        padding = [width - len(request.prompt) for request, _ in batch]
        prompts = torch.tensor(
            [(0,) * pad + request.prompt for pad, (request, _) in zip(padding, batch, strict=True)]
        )
        model.generate(
            prompts, attention_mask=torch.arange(width) >= torch.tensor(padding)[:, None],
            max_new_tokens=(new := max(len(sample.ids) for _, sample in batch)), min_new_tokens=new,
            do_sample=True, pad_token_id=tokenizer.pad_token_id or 0,
        )  # fmt: skip
        tokens += sum(len(sample.ids) for _, sample in batch)
    return tokens / (time.perf_counter() - start)


def with_vllm(job: Job, chosen: argparse.Namespace) -> dict[str, float]:
    # In this process there is nothing between the search and the engine, for both that are compared.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    sampler = VLLMSampler(
        job.source.model, job.source.tokenizer, enforce_eager=True, max_num_seqs=job.batch,
        max_model_len=job.length, block_size=32, kv_cache_memory_bytes=chosen.kv_gib << 30,
    )  # fmt: skip
    llm = sampler.llm
    steps, step = 0, llm.llm_engine.step

    def counted() -> object:
        nonlocal steps
        steps += 1
        return step()

    llm.llm_engine.step = counted

    def raw(done: Sequence[tuple[SampleRequest, Sample]]) -> float:
        from vllm import SamplingParams
        from vllm.inputs import tokens_input

        start = time.perf_counter()
        llm.generate(
            [tokens_input(list(request.prompt)) for request, _ in done],
            [
                SamplingParams(max_tokens=len(sample.ids), ignore_eos=True, detokenize=False)
                for _, sample in done
            ],
            use_tqdm=False,
        )
        return sum(len(sample.ids) for _, sample in done) / (time.perf_counter() - start)

    return figures(job, sampler, llm.reset_prefix_cache, lambda: steps, raw, chosen.seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("nano", "smollm2", "both"), default="both")
    parser.add_argument("--data", type=Path, help="asdiv.jsonl, for SmolLM2")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kv-gib", type=int, default=4, help="of vLLM's cache")
    chosen = parser.parse_args()
    if chosen.model != "nano" and chosen.data is None:
        parser.error("SmolLM2 needs word problems: --data PATH/asdiv.jsonl")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in ("nano", "smollm2"):
        if chosen.model not in (name, "both"):
            continue
        if name == "nano":
            policy, problems = nano(chosen.problems)
            settings = {
                "batch": 128,
                "max_tokens": 256,
                "rollouts": 16,
                "simulations_per_round": 16,
                "raw": 6,
                "length": 512,
            }
        else:
            policy, problems = smollm2(chosen.problems, chosen.data)
            settings = {
                "batch": 64,
                "max_tokens": 60,
                "rollouts": 4,
                "simulations_per_round": 4,
                "raw": 1,
                "length": 1024,
            }
        assert isinstance(policy.sampler, TransformersSampler)
        job = Job(policy, policy.sampler, problems, **settings)
        found[name] = {"transformers": with_transformers(job, chosen)}
        print(name, found[name], flush=True)
        if find_spec("vllm") is not None:
            found[name]["vllm"] = with_vllm(job, chosen)
            print(name, found[name], flush=True)
    print(json.dumps(found | {"machine": machine()}))


if __name__ == "__main__":
    main()
