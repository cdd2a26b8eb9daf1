"""Is streaming worth its code on a server of uneven latency: python benchmarks/streaming.py

One search (32 problems, 16 rollouts of MCTS, 4 simulations a round, a prompted policy) is run in rounds
and streaming (``SearchConfig(streaming=True)``), by turns, through an OpenAI-compatible server on this
machine. The server is a stub: its text is a function of prompt and seed, and so is the lognormal time
that each reply takes. Both searches ask for the same and wait equally for the same request. The server
takes any number of requests side by side; ``--concurrency`` limits those in flight.

``ratio`` is rounds' seconds over streaming's, of the shortest of ``--repeats`` runs each. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from random import Random
from typing import Any

from machine import machine

from rftt import (
    MCTS,
    Budget,
    Grammar,
    MathVerifier,
    PromptedPolicy,
    SearchConfig,
    SearchTree,
    run_search,
)
from rftt.nano.checkpoint import load_nano
from rftt.problems.arithmetic import arithmetic_problems
from rftt.samplers.openai import ServerSampler

FUNCTIONS = ("clarify", "analysis", "subquestion", "next_step", "direct_answer")
BOXED = 0.3
"""The share of bodies that hold an answer."""


class _Stub(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, median: float, sigma: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.median, self.sigma = median, sigma

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        rng = Random(f"{body['seed']} {body['prompt']}")
        digits = "".join(rng.choice("0123456789+-=") for _ in range(rng.randint(3, 15)))
        text = f"\\boxed{{{rng.randint(0, 99)}}}" if rng.random() < BOXED else digits
        time.sleep(rng.lognormvariate(math.log(self.median), self.sigma))
        return {"choices": [{"text": text, "finish_reason": "stop"}]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Stub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = json.dumps(self.server.complete(body)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def _serve(port: Connection, median: float, sigma: float) -> None:
    server = _Stub(median, sigma)
    port.send(server.server_port)
    server.serve_forever()


@contextmanager
def serving(median: float, sigma: float) -> Iterator[str]:
    """Yield the address of a stub in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, median, sigma), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}/v1"
    finally:
        process.terminate()
        process.join()


def _shape(trees: list[SearchTree]) -> list[object]:
    return [(tree.parent, [step and step.ids for step in tree.step]) for tree in trees]


def compare(chosen: argparse.Namespace, sigma: float, concurrency: int) -> dict[str, float]:
    """Search both ways and return the seconds."""
    _, tokenizer = load_nano()
    problems = arithmetic_problems(chosen.problems, "warmup")
    searcher = MCTS(exploration=2.0, width=2, simulations_per_round=chosen.simulations_per_round)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    found: dict[bool, list[SearchTree]] = {}
    rounds = 0

    def count(*_: object) -> None:
        nonlocal rounds
        rounds += 1

    verifier = MathVerifier()
    with serving(chosen.median, sigma) as url:
        sampler = ServerSampler(url, "stub", tokenizer, concurrency=concurrency)
        policy = PromptedPolicy(sampler, tokenizer, Grammar.default(), functions=FUNCTIONS)
        for _ in range(chosen.repeats):
            for streaming in (False, True):
                config = SearchConfig(
                    Budget(rollouts=chosen.rollouts), seed=chosen.seed, max_depth=8, streaming=streaming
                )
                hook = None if streaming else count
                start = time.perf_counter()
                found[streaming] = run_search(
                    problems, searcher, policy, verifier, config, on_round=hook
                )
                seconds[streaming].append(time.perf_counter() - start)
    if _shape(found[False]) != _shape(found[True]):
        raise RuntimeError("streaming gave other trees than rounds")
    best = {streaming: min(runs) for streaming, runs in seconds.items()}
    return {
        "sigma": sigma,
        "concurrency": concurrency,
        "rounds": rounds // chosen.repeats,
        "requests": sum(len(tree) - 1 for tree in found[True]),
        "seconds_rounds": round(best[False], 2),
        "seconds_streaming": round(best[True], 2),
        "slowest_rounds": round(max(seconds[False]), 2),
        "slowest_streaming": round(max(seconds[True]), 2),
        "ratio": round(best[False] / best[True], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--rollouts", type=int, default=16)
    parser.add_argument("--simulations-per-round", type=int, default=4)
    parser.add_argument("--median", type=float, default=0.2, help="seconds of a reply")
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.5, 1.0], help="of their logarithm")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    results = []
    for sigma in chosen.sigma:
        for concurrency in chosen.concurrency:
            results.append(compare(chosen, sigma, concurrency))
            print(results[-1], flush=True)
    print(json.dumps({"streaming": results, "machine": machine()}))


if __name__ == "__main__":
    main()
