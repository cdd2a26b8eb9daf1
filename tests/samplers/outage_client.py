"""A search through a real server, which writes down what it asks; as a program it can be killed:

``python -c "from tests.samplers.outage_client import main; main()" URL MODEL DIRECTORY LOG``
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from rftt import (
    MCTS,
    Budget,
    Grammar,
    MathVerifier,
    Problem,
    PromptedPolicy,
    SearchConfig,
    SearchTree,
    run_search,
)
from rftt.policies.chat import chat_prompts, chat_question
from rftt.samplers.openai import ServerSampler

PROBLEMS = [Problem(str(i), f"Compute {i} + {i + 3}", str(2 * i + 3)) for i in range(4)]
CONCURRENCY = 4


class LoggingSampler(ServerSampler):
    """Writes each request and that it was answered to a file, and gives whoever would kill it time."""

    log: Path
    _writing = threading.Lock()

    def post(self, body: Mapping[str, Any]) -> Any:
        time.sleep(0.05)
        asked = [body["seed"], body.get("prompt") or body["messages"], body["max_tokens"]]
        self._write("asked", asked)
        reply = super().post(body)
        self._write("answered", asked)
        return reply

    def _write(self, what: str, asked: list[Any]) -> None:
        with self._writing, self.log.open("a", encoding="utf-8") as file:
            file.write(f"{what} {json.dumps(asked)}\n")


def read_log(log: Path, what: str) -> list[str]:
    """Return the requests that were asked, or answered, in order."""
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    return [line.removeprefix(what) for line in lines if line.startswith(what) and line.endswith("\n")]


def search(
    url: str, model: Path, log: Path, *, sampler: Mapping[str, Any] | None = None, **options: Any
) -> list[SearchTree]:
    """Search four problems.

    Args:
        url: the server's.
        model: the folder of its tokenizer.
        log: what was asked.
        sampler: further settings of the sampler.
        **options: of ``run_search``.
    """
    words, grammar = AutoTokenizer.from_pretrained(model), Grammar.default()
    settings = {"processed_log_probs": True, "concurrency": CONCURRENCY} | dict(sampler or {})
    client = LoggingSampler(url, "tiny", words, **settings)
    client.log = log
    policy = PromptedPolicy(
        client,
        words,
        grammar,
        prompts=chat_prompts(grammar),
        question=chat_question(words),
        stop="e",  # so that bodies of random weights end
    )
    config = SearchConfig(Budget(rollouts=6), seed=3, max_depth=4, max_tokens=24)
    searcher = MCTS(expansion="sample", width=2)
    return run_search(PROBLEMS, searcher, policy, MathVerifier(), config, **options)


def main() -> None:
    """Search as the command line says."""
    logging.basicConfig(level=logging.WARNING)
    url, *paths = sys.argv[1:]
    model, directory, log = map(Path, paths)
    search(url, model, log, directory=directory)
