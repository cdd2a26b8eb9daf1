"""A server's samples are those of its model, and no failure loses or doubles one."""

from __future__ import annotations

import logging
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
    Sampler,
    SearchConfig,
    SearchTree,
    TransformersSampler,
    run_search,
)
from rftt.fingerprint import fingerprint
from rftt.samplers.openai import ServerSampler
from rftt.samplers.sampler import Sample, SampleRequest, SampleStream
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


def _search(sampler: Sampler, *, streaming: bool = False) -> list[SearchTree]:
    policy = PromptedPolicy(sampler, tokenizer(), Grammar.default())
    config = SearchConfig(Budget(rollouts=4), seed=3, max_depth=4, max_tokens=30, streaming=streaming)
    return run_search(PROBLEMS, BestOfN(), policy, MathVerifier(), config)


def _here() -> list[SearchTree]:
    return _search(_Here(tiny_model(), tokenizer()))


def _steps(trees: Sequence[SearchTree]) -> Mapping[str, object]:
    return {
        tree.problem.id: [
            (parent, s and (s.function, s.ids)) for parent, s in zip(tree.parent, tree.step, strict=True)
        ]
        for tree in trees
    }


@pytest.mark.parametrize("streaming", [False, True])
def test_a_search_through_a_server_is_that_of_its_model(streaming: bool) -> None:
    with serving(_model(), tokenizer(), Faults(latency=lambda rng: rng.uniform(0, 0.02))) as url:
        there = _search(ServerSampler(url, "tiny", tokenizer()), streaming=streaming)
    here = _here()
    assert _steps(there) == _steps(here)
    for mine, theirs in zip(here, there, strict=True):
        for a, b in zip(mine.step[1:], theirs.step[1:], strict=True):
            assert a is not None
            assert b is not None
            assert a.log_probs == pytest.approx(b.log_probs, abs=1e-4)


def test_failures_lose_nothing_and_double_nothing_and_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults = Faults(dropped=0.3, refused=0.1, garbled=0.1, slow=0.03, seconds=1.2)
    with serving(_model(), tokenizer(), faults) as url:
        sampler = ServerSampler(
            url, "tiny", tokenizer(), concurrency=4, retries=30, pause=0.001, timeout=1
        )
        assert _steps(_search(sampler)) == _steps(_here())
    assert faults.answered >= 24
    lines = [record.getMessage() for record in caplog.records if record.name == "rftt.samplers.openai"]
    # What is slow is answered, but too late.
    assert faults.asked - faults.answered <= len(lines) < faults.asked
    for reason in ("ConnectionError", "503", "JSONDecodeError"):
        assert any(reason in line for line in lines), reason
    assert all("\n" not in line and "of 31 failed with" in line for line in lines)


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_an_error_of_the_request_is_final_in_the_servers_own_words(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It was tried nine times, and then named without what the server said."""
    faults = Faults(error=(status, '{"error": "the model tiny does not exist"}'))
    with serving(_model(), tokenizer(), faults) as url:
        sampler = ServerSampler(url, "tiny", tokenizer(), pause=0.001)
        stop = stop_automaton([20], sampler.tokenizer_size, sampler.vocab_size)
        with pytest.raises(RuntimeError, match=rf"{status}: .*the model tiny does not exist"):
            sampler.sample([SampleRequest((3,), 0, 1, 9)], stop)
    assert faults.asked == 1
    assert not caplog.records


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_an_error_that_may_pass_is_tried_again(status: int, caplog: pytest.LogCaptureFixture) -> None:
    faults = Faults(error=(status, "later"))
    with serving(_model(), tokenizer(), faults) as url:
        sampler = ServerSampler(url, "tiny", tokenizer(), retries=2, pause=0.001)
        stop = stop_automaton([20], sampler.tokenizer_size, sampler.vocab_size)
        with caplog.at_level(logging.WARNING), pytest.raises(ConnectionError, match=f"{status}"):
            sampler.sample([SampleRequest((3,), 0, 1, 9)], stop)
    assert faults.asked == 3
    assert len(caplog.records) == 2


def test_without_ids_the_text_is_encoded_again() -> None:
    with serving(_model(), tokenizer(), Faults(gives_ids=False)) as url:
        there = _search(ServerSampler(url, "tiny", tokenizer()))
    assert _complete_first_steps(there) == _complete_first_steps(_here())


def _complete_first_steps(trees: Sequence[SearchTree]) -> list[list[str]]:
    """Return only those: what comes after them is sampled after other ids."""
    first = [[tree.step[child] for child in tree.children[0]] for tree in trees]
    return [[s.text for s in steps if s is not None and not s.truncated] for steps in first]


def test_a_server_that_stays_away_is_named_with_what_to_do() -> None:
    with serving(_model(), tokenizer(), Faults()) as url:
        pass
    sampler = ServerSampler(url, "tiny", tokenizer(), retries=2, pause=0.001)
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=rf"{url} failed 3 times.*directory"):
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
        sampler.next_log_probs(
            [(3,)], [1], stop_automaton([20], sampler.tokenizer_size, sampler.vocab_size)
        )
    with pytest.raises(ValueError, match="cannot keep to a grammar"):
        sampler.stream(functional_policy().automaton)
    with pytest.raises(ValueError, match="concurrency must be 1 or more"):
        ServerSampler("http://nowhere/v1", "tiny", tokenizer(), concurrency=0)


def test_servers_and_settings_are_told_apart() -> None:
    def described(url: str = "http://a/v1", model: str = "tiny", **settings: float) -> object:
        return fingerprint(ServerSampler(url, model, tokenizer(), **settings))  # type: ignore[arg-type]

    same = described()
    assert same == described(key="secret", retries=3)  # type: ignore[arg-type]
    assert same != described(url="http://b/v1")
    assert same != described(model="large")
    assert same != described(temperature=0.5)
