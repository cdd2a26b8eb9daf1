"""A server's samples are those of its model, and no failure loses or doubles one."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
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
from rftt.samplers.completions import read_max_length, read_reply
from rftt.samplers.openai import ServerSampler
from rftt.samplers.sampler import Sample, SampleRequest, SampleStream
from rftt.samplers.stops import Stops
from rftt.search.tree.storage import load_trees, save_trees
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


def _policy(sampler: Sampler) -> PromptedPolicy:
    """A policy whose samples may be blank, as a server's are."""
    words = tokenizer()
    policy = PromptedPolicy(sampler, words, Grammar.default())
    stops = policy.automaton.special_ids[policy.automaton.closing].tolist()
    policy.automaton = stop_automaton(
        stops, sampler.tokenizer_size, sampler.vocab_size,
        banned=[words.pad_token_id, words.unk_token_id],
    )  # fmt: skip
    return policy


def _search(sampler: Sampler, *, streaming: bool = False) -> list[SearchTree]:
    policy = _policy(sampler)
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
    assert sampler.retried == 2


def test_without_ids_the_text_is_encoded_again() -> None:
    with serving(_model(), tokenizer(), Faults(form="text")) as url:
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
    automaton = stop_automaton([20], sampler.tokenizer_size, sampler.vocab_size)
    sample = sampler.complete(SampleRequest((3,), 0, 1, 9), Stops.of(automaton, tokenizer()))
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


def _request(seed: int = 0, *, prompt: tuple[int, ...] = (3, 7), most: int = 20) -> SampleRequest:
    return SampleRequest(prompt, seed, 1, most)


def _sample(
    faults: Faults, requests: Sequence[SampleRequest], *, blank: bool = True, **settings: Any
) -> list[Sample]:
    with serving(_model(), tokenizer(), faults) as url:
        sampler = ServerSampler(url, "tiny", tokenizer(), pause=0.001, **settings)
        policy = _policy(sampler) if blank else PromptedPolicy(sampler, tokenizer(), Grammar.default())
        return sampler.sample(requests, policy.automaton)


def test_the_form_of_llama_cpp_is_read() -> None:
    """All of its log-probabilities were NaN, and its ids were those of the text encoded again."""
    requests = [_request(seed) for seed in range(20)]
    eos = tokenizer().eos_token_id
    ours = _sample(Faults(form="llama.cpp"), requests)
    theirs = _sample(Faults(), requests)
    stops = 0
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.ids[:-1] == other.ids[:-1]
        assert mine.log_probs[:-1] == pytest.approx(other.log_probs[:-1], abs=1e-5)
        # It leaves out the stop.
        unsaid = len(other.ids) < 20 and other.ids[-1] != eos
        assert math.isnan(mine.log_probs[-1]) == unsaid
        stops += unsaid
    assert stops


def test_every_setting_of_sampling_is_sent() -> None:
    """A server's own top_k and min_p applied, and penalties of a generation config."""
    faults = Faults()
    _sample(faults, [_request()], fields={"mirostat": None, "cache_prompt": True})
    (body,) = faults.bodies
    neutral = {
        "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "typical_p": 1.0,
        "repetition_penalty": 1.0, "repeat_penalty": 1.0, "presence_penalty": 0.0,
        "frequency_penalty": 0.0, "cache_prompt": True,
    }  # fmt: skip
    assert {name: body.get(name) for name in neutral} == neutral
    assert "mirostat" not in body


@pytest.mark.parametrize(
    ("form", "settings", "known"),
    [
        ("vllm", {"temperature": 0.5}, False),
        ("vllm", {"top_p": 0.5}, False),
        ("vllm", {"temperature": 0.5, "processed_log_probs": True}, True),
        ("vllm", {"temperature": 0.0}, True),
        ("llama.cpp", {"temperature": 0.5}, True),
        ("vllm", {}, True),
    ],
)
def test_log_probs_of_another_distribution_are_not_taken_for_those_of_the_draw(
    form: Literal["vllm", "llama.cpp"],
    settings: dict[str, Any],
    known: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (sample,) = _sample(Faults(form=form), [_request(most=1)], **settings)
    assert math.isnan(sample.log_probs[0]) != known
    warned = [r for r in caplog.records if "processed_logprobs" in r.getMessage()]
    assert bool(warned) != known
    if settings.get("temperature") == 0.0:
        assert sample.log_probs == (0.0,)


@pytest.mark.parametrize(
    ("reply", "length"),
    [
        ({"data": [{"id": "tiny", "max_model_len": 512}]}, 512),
        # llama.cpp's, which knows its model by a path.
        ({"data": [{"id": "/models/tiny.gguf", "meta": {"n_ctx": 256, "n_ctx_train": 8192}}]}, 256),
        ({"data": [{"id": "tiny"}]}, None),
        ({"data": [{"id": "a", "max_model_len": 9}, {"id": "b", "max_model_len": 8}]}, None),
        ({"data": []}, None),
        ([], None),
    ],
)
def test_a_server_says_how_long_its_context_is(reply: object, length: int | None) -> None:
    assert read_max_length(reply, "tiny") == length


def test_a_reply_without_a_completion_is_named_in_the_servers_words() -> None:
    with pytest.raises(ValueError, match=r"no completion: .*out of memory"):
        read_reply({"error": "out of memory"})


def test_a_request_that_is_too_long_ends_alone() -> None:
    """It was tried nine times, and ended the search."""
    long, short = _request(prompt=(3,) * 50), _request()
    faults = Faults(context=40)
    first, second = _sample(faults, [long, short])
    assert first == Sample((), ())
    assert second.ids
    assert faults.asked == 2


@pytest.mark.parametrize("says", [True, False])
def test_a_search_goes_on_when_a_problem_is_too_long(
    says: bool, caplog: pytest.LogCaptureFixture
) -> None:
    problems = [Problem("long", "+".join("1" * 60)), Problem("short", "1+2")]
    with serving(_model(), tokenizer(), Faults(context=100, says_context=says)) as url:
        policy = PromptedPolicy(
            ServerSampler(url, "tiny", tokenizer(), pause=0.001), tokenizer(), Grammar.default()
        )
        config = SearchConfig(Budget(rollouts=2), max_depth=3, max_tokens=20)
        long, short = run_search(problems, BestOfN(), policy, MathVerifier(), config)
    ends = [long.step[node] for node in long.ends()]
    assert all(step is not None and step.truncated and step.ids == () for step in ends)
    assert any(step is not None and step.ids for step in short.step)
    texts = [record.getMessage() for record in caplog.records]
    limit = "no room in the model's context of 100" if says else "too many for the server"
    assert sum("problem 'long'" in text and limit in text for text in texts) == 2


def test_a_blank_sample_has_its_first_id_drawn_again() -> None:
    words = tokenizer()
    (new_line,) = words.encode("\n", add_special_tokens=False)
    with torch.no_grad():
        first = tiny_model()(torch.arange(len(words))[:, None]).logits[:, 0].softmax(-1)
    prompt = (int(first[:, new_line].argmax()),)
    requests = [_request(seed, prompt=prompt, most=6) for seed in range(40)]

    def is_blank(sample: Sample) -> bool:
        return not words.decode(list(sample.ids), skip_special_tokens=True).strip()

    assert sum(map(is_blank, _sample(Faults(), requests))) > 5
    faults = Faults()
    samples = _sample(faults, requests, blank=False)
    assert any(str(new_line) in body["logit_bias"] for body in faults.bodies)
    assert not any(map(is_blank, samples))
    assert all(1 <= len(sample.ids) <= 6 for sample in samples)


def test_an_id_that_no_text_may_hold_ends_a_sample() -> None:
    words = tokenizer()
    automaton = stop_automaton([20], len(words), len(words))
    stops = Stops.of(automaton, words)
    control = words.unk_token_id
    cut = stops.cut([5, control, 6], [-1.0, -1.0, -1.0], stopped=False, max_tokens=9)
    assert cut.ids == (5, 20)
    assert cut.log_probs[0] == -1.0
    assert math.isnan(cut.log_probs[1])


def test_trees_with_unknown_log_probs_are_saved_as_json(tmp_path: Path) -> None:
    with serving(_model(), tokenizer(), Faults(form="text")) as url:
        sampler = ServerSampler(url, "tiny", tokenizer(), temperature=0.5)
        policy = PromptedPolicy(sampler, tokenizer(), Grammar.default())
        config = SearchConfig(Budget(rollouts=1), max_depth=2, max_tokens=9)
        trees = run_search(
            PROBLEMS[:2], BestOfN(), policy, MathVerifier(), config, directory=tmp_path / "run"
        )
        again = run_search(
            PROBLEMS[:2], BestOfN(), policy, MathVerifier(), config, directory=tmp_path / "run"
        )
    save_trees(tmp_path / "trees.jsonl", trees)
    for file in (tmp_path / "trees.jsonl", tmp_path / "run" / "rounds.jsonl"):
        assert "NaN" not in file.read_text()
    for found in (again, load_trees(tmp_path / "trees.jsonl")):
        steps = [step for tree in found for step in tree.step[1:] if step is not None]
        assert steps
        assert all(math.isnan(p) for step in steps for p in step.log_probs)


def test_servers_and_settings_are_told_apart() -> None:
    def described(url: str = "http://a/v1", model: str = "tiny", **settings: float) -> object:
        return fingerprint(ServerSampler(url, model, tokenizer(), **settings))  # type: ignore[arg-type]

    same = described()
    assert same == described(key="secret", retries=3)  # type: ignore[arg-type]
    assert same != described(url="http://b/v1")
    assert same != described(model="large")
    assert same != described(temperature=0.5)
