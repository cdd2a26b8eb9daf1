"""A server that dies in the middle of a search costs it nothing but time."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from rftt import (
    MCTS,
    Budget,
    Grammar,
    Problem,
    PromptedPolicy,
    SearchConfig,
    SearchTree,
    run_search,
)
from rftt.samplers.openai import ServerSampler
from rftt.samplers.sampler import Sample, SampleRequest
from rftt.samplers.thread_stream import ThreadStream
from rftt.search.tree.storage import tree_to_json
from rftt.tokens.automaton import stop_automaton
from rftt.verifiers.function import FunctionVerifier, OnText
from tests.models import tokenizer
from tests.samplers.stub_server import Asked, Settings, read_log, stub

PROBLEMS = [Problem(str(i), f"{i}+{i + 3}", str(2 * i + 3)) for i in range(4)]
CONCURRENCY = 6


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    words = tokenizer()
    texts = ["1+2=3", "5+2=\\boxed{7}", "4*2", "\\boxed{5}", "3-1=2"]
    bodies = [words.encode(text, add_special_tokens=False) for text in texts]
    (end,) = words.encode("\n", add_special_tokens=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Settings(port, str(tmp_path / "asked.jsonl"), bodies, end)


def _sampler(settings: Settings, **limits: Any) -> ServerSampler:
    url = f"http://127.0.0.1:{settings.port}/v1"
    limits = {"pause": 0.01, "concurrency": CONCURRENCY} | limits
    return ServerSampler(url, "stub", tokenizer(), **limits)


def _is_boxed(text: str, answer: str | None) -> float:
    return float(f"boxed{{{answer}}}" in text)


def _search(sampler: ServerSampler, **options: Any) -> list[SearchTree]:
    policy = PromptedPolicy(sampler, tokenizer(), Grammar.default())
    config = SearchConfig(Budget(rollouts=6), seed=3, max_depth=4, max_tokens=40)
    searcher = MCTS(expansion="sample", width=2)
    verifier = FunctionVerifier(OnText(_is_boxed))
    return run_search(PROBLEMS, searcher, policy, verifier, config, **options)


def _whole(trees: Sequence[SearchTree]) -> list[object]:
    return [tree_to_json(tree) for tree in trees]


def _undisturbed(settings: Settings, folder: Path) -> tuple[list[object], list[set[Asked]]]:
    """Return the trees of a search whose server stays, and what was asked in each of its rounds."""
    log = folder / "undisturbed.jsonl"
    ends = [0]
    with stub(Settings(settings.port, str(log), settings.bodies, settings.end)):
        trees = _search(_sampler(settings), on_round=lambda *_: ends.append(len(read_log(log))))
    asked = read_log(log)
    rounds = [set(asked[start:end]) for start, end in pairwise(ends)]
    assert sum(map(len, rounds)) == len(set(asked)) == len(asked)
    return _whole(trees), rounds


@contextmanager
def _returning(settings: Settings, *, seconds: float, unready: int) -> Iterator[None]:
    """Run a stub that dies, and after some seconds another in its place."""
    done = threading.Event()

    def second() -> None:
        first.wait()
        time.sleep(seconds)
        with stub(Settings(settings.port, settings.log, settings.bodies, settings.end, unready=unready)):
            done.wait()

    with stub(settings) as first:
        thread = threading.Thread(target=second)
        thread.start()
        try:
            yield
        finally:
            done.set()
            first.kill()
            thread.join()


def test_a_search_waits_for_a_server_that_was_killed(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each request had a number of tries, however long a server takes to start."""
    trees, rounds = _undisturbed(settings, tmp_path)
    settings.die_after = sum(map(len, rounds)) // 2
    sampler = _sampler(settings, retries=3)
    with _returning(settings, seconds=0.3, unready=5):
        assert _whole(_search(sampler)) == trees
    asked = Counter(read_log(Path(settings.log)))
    assert set(asked) == set.union(*rounds)
    assert max(asked.values()) == 2
    assert sum(count - 1 for count in asked.values()) <= CONCURRENCY, "only what was in flight"
    lines = [record.getMessage() for record in caplog.records]
    (away,) = [line for line in lines if "is away: " in line]
    (back,) = [line for line in lines if "is back: " in line]
    assert f"127.0.0.1:{settings.port}" in away
    tries = re.search(r"away for \d+ s and (\d+) tries", back)
    assert tries is not None
    assert int(tries[1]) > 5
    failed = [line for line in lines if "failed with" in line]
    assert sampler.retried == int(tries[1]) + len(failed)
    assert len(failed) <= 3 * CONCURRENCY, "what was in flight"


def test_a_search_whose_client_gave_up_asks_only_its_last_round_again(
    settings: Settings, tmp_path: Path
) -> None:
    trees, rounds = _undisturbed(settings, tmp_path)
    settings.die_after = sum(map(len, rounds)) // 2
    directory, log = tmp_path / "run", Path(settings.log)
    with stub(settings), pytest.raises(ConnectionError, match=r"away for .*started again"):
        _search(_sampler(settings, wait=0.1), directory=directory)
    recorded = len((directory / "rounds.jsonl").read_text().splitlines())
    assert 0 < recorded < len(rounds)
    before = set(read_log(log))
    settings.die_after = 0
    with stub(settings):
        assert _whole(_search(_sampler(settings), directory=directory)) == trees
    after = read_log(log)[len(before) :]
    assert before == before & set.union(*rounds[: recorded + 1])
    assert Counter(after) == Counter(asked for asked_in in rounds[recorded:] for asked in asked_in)


def test_a_server_that_starts_says_how_long_its_context_is_once_it_is_there(
    settings: Settings,
) -> None:
    """Of one that was not there at first, it stayed unknown for a round, and so a search's trees
    depended on it."""
    sampler = _sampler(settings, retries=20)

    def late() -> None:
        time.sleep(0.1)
        with stub(settings):
            done.wait()

    done = threading.Event()
    thread = threading.Thread(target=late)
    thread.start()
    try:
        assert sampler.max_length == 512
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize(("wait", "seen"), [(0, True), (60, False)])
def test_a_server_that_is_not_waited_for_costs_tries(
    wait: float, seen: bool, settings: Settings
) -> None:
    sampler = _sampler(settings, wait=wait, retries=2, concurrency=1)
    stop = stop_automaton([settings.end], sampler.tokenizer_size, sampler.vocab_size)
    if seen:
        with stub(settings):
            sampler.sample([SampleRequest((3,), 0, 1, 9)], stop)
    with pytest.raises(ConnectionError, match="failed 3 times"):
        sampler.sample([SampleRequest((3,), 0, 1, 9)], stop)


def test_a_server_that_has_chat_completions_alone_is_told_of(settings: Settings) -> None:
    sampler = ServerSampler(f"http://127.0.0.1:{settings.port}/chat-alone/v1", "stub", tokenizer())
    stop = stop_automaton([settings.end], sampler.tokenizer_size, sampler.vocab_size)
    with stub(settings), pytest.raises(RuntimeError, match=r"(?s)404.*endpoint='chat'"):
        sampler.sample([SampleRequest((3,), 0, 1, 9)], stop)


def test_no_thread_waits_for_a_server_after_its_stream_ended() -> None:
    left = threading.Event()

    def complete(request: SampleRequest, ended: threading.Event) -> Sample:
        if request.seed:
            raise RuntimeError("refused")
        if ended.wait(30):
            left.set()
        return Sample((), ())

    stream = ThreadStream(complete, 2)
    request = SampleRequest((3,), 0, 1, 9)
    for key in (0, 1):
        stream.add(key, evolve(request, seed=key))
    with pytest.raises(RuntimeError, match="refused"):
        stream.collect()
    assert left.wait(10)


@pytest.mark.parametrize("wrong", [{"wait": -1.0}, {"endpoint": "generate"}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], settings: Settings) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} must be"):
        _sampler(settings, **wrong)
