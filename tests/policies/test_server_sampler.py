"""A server's samples are those of its model, and no failure loses or doubles one."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import pytest
from attrs import evolve

from rftt import (
    BestOfN,
    Budget,
    Grammar,
    MathVerifier,
    Problem,
    PromptedPolicy,
    SearchTree,
    ServerSampler,
    TransformersSampler,
    run_search,
)
from rftt.policies.sampler import Sample, Sampler, SampleRequest, SampleStream
from rftt.tokens.automaton import TokenAutomaton, stop_automaton
from tests.completions_server import Faults, serving
from tests.models import functional_policy, tiny_model, tokenizer

PROBLEMS = [Problem(str(i), f"{i}+{i + 3}") for i in range(6)]


class _SmallSeeds(SampleStream):
    """Seeds of 31 bits, as a server is sent them."""

    def __init__(self, stream: SampleStream) -> None:
        self._stream = stream

    def add(self, key: int, request: SampleRequest) -> None:
        self._stream.add(key, evolve(request, seed=request.seed % 2**31))

    def collect(self) -> list[tuple[int, Sample]]:
        return self._stream.collect()


class _Here(TransformersSampler):
    """The model itself, with a server's seeds."""

    def stream(self, automaton: TokenAutomaton) -> SampleStream:
        return _SmallSeeds(super().stream(automaton))


def _model() -> TransformersSampler:
    return TransformersSampler(tiny_model(), tokenizer())


def _search(sampler: Sampler) -> list[SearchTree]:
    policy = PromptedPolicy(sampler, tokenizer(), Grammar.default())
    return run_search(
        PROBLEMS, BestOfN(4), policy, MathVerifier(), budget=Budget(rollouts=4), seed=3,
        max_depth=4, max_tokens=30,
    )  # fmt: skip


def _here() -> list[SearchTree]:
    return _search(_Here(tiny_model(), tokenizer()))


def _steps(trees: Sequence[SearchTree]) -> Mapping[str, object]:
    return {
        tree.problem.id: [
            (parent, s and (s.function, s.ids))
            for parent, s in zip(tree.parent, tree.segment, strict=True)
        ]
        for tree in trees
    }


def test_a_search_through_a_server_is_that_of_its_model() -> None:
    with serving(_model(), Faults()) as url:
        there = _search(ServerSampler(url, "tiny", tokenizer()))
    here = _here()
    assert _steps(there) == _steps(here)
    for mine, theirs in zip(here, there, strict=True):
        for a, b in zip(mine.segment[1:], theirs.segment[1:], strict=True):
            assert a is not None
            assert b is not None
            assert a.log_probs == pytest.approx(b.log_probs, abs=1e-4)


def test_failures_lose_nothing_and_double_nothing() -> None:
    faults = Faults(dropped=0.3, refused=0.1, garbled=0.1, slow=0.03, seconds=1.2)
    with serving(_model(), faults) as url:
        sampler = ServerSampler(
            url, "tiny", tokenizer(), concurrency=4, retries=30, pause=0.001, timeout=1
        )
        assert _steps(_search(sampler)) == _steps(_here())
    assert faults.answered >= 24


def test_without_ids_the_text_is_encoded_again() -> None:
    with serving(_model(), Faults(gives_ids=False)) as url:
        there = _search(ServerSampler(url, "tiny", tokenizer()))
    assert _whole_first_steps(there) == _whole_first_steps(_here())


def _whole_first_steps(trees: Sequence[SearchTree]) -> list[list[str]]:
    """Only those: what comes after them is sampled after other ids."""
    first = [[tree.segment[child] for child in tree.children(0)] for tree in trees]
    return [[s.text for s in segments if s is not None and not s.is_cut] for segments in first]


def test_a_server_that_stays_away_is_named_with_what_to_do() -> None:
    with serving(_model(), Faults()) as url:
        pass
    sampler = ServerSampler(url, "tiny", tokenizer(), retries=2, pause=0.001)
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=rf"{url} failed 3 times.*folder"):
        _search(sampler)
    assert time.monotonic() - start < 10


def test_what_a_server_does_not_report_is_not_a_number() -> None:
    reply = {"choices": [{"text": "12", "finish_reason": "length"}]}

    class Silent(ServerSampler):
        def post(self, body: Mapping[str, object]) -> object:
            return reply

    sampler = Silent("http://nowhere/v1", "tiny", tokenizer())
    sample = sampler.complete(SampleRequest((3,), 0, 1, 9), [20])
    assert len(sample.ids) == 2
    assert all(math.isnan(p) for p in sample.log_probs)


def test_what_a_server_cannot_do_is_said() -> None:
    sampler = ServerSampler("http://nowhere/v1", "tiny", tokenizer())
    with pytest.raises(NotImplementedError, match="prompted policy"):
        sampler.next_log_probs([(3,)], [1], stop_automaton([20], sampler.vocabulary, sampler.size))
    with pytest.raises(ValueError, match="cannot keep to a grammar"):
        sampler.stream(functional_policy().automaton)
    with pytest.raises(ValueError, match="concurrency must be 1 or more"):
        ServerSampler("http://nowhere/v1", "tiny", tokenizer(), concurrency=0)
