"""A small OpenAI-compatible completions server over a real model, with faults and latency on request."""

from __future__ import annotations

import json
import math
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from attrs import define, field
from transformers import PreTrainedTokenizerBase

from rftt import Sampler
from rftt.samplers.sampler import Sample, SampleRequest
from rftt.tokens.automaton import TokenAutomaton, stop_automaton


@define
class Faults:
    """What is wrong with a server.

    Attributes:
        dropped, refused, garbled, slow: how often each fault comes.
        seconds: how long a slow reply takes.
        latency: seconds that every reply takes, drawn with a generator seeded by the request.
        error: status and text with which every request is answered.
        form: whose form replies have: vLLM's and llama.cpp's hold token ids, others' text alone.
        context: length of the model's context; longer requests are refused, in vLLM's words.
        says_context: whether ``/models`` says how long it is.
        bodies: what was asked.
        answered: counts good replies.
        asked: counts requests.
    """

    dropped: float = 0.0
    refused: float = 0.0
    garbled: float = 0.0
    slow: float = 0.0
    seconds: float = 1.0
    latency: Callable[[random.Random], float] | None = None
    error: tuple[int, str] | None = None
    form: Literal["vllm", "llama.cpp", "text"] = "vllm"
    context: int | None = None
    says_context: bool = False
    bodies: list[dict[str, Any]] = field(factory=list)
    answered: int = 0
    asked: int = 0
    rng: random.Random = field(factory=lambda: random.Random(0))


class _Server(ThreadingHTTPServer):
    # Closing waits for all threads: one that is in the middle of torch when Python ends aborts it.
    daemon_threads = False
    request_queue_size = 512

    def __init__(self, sampler: Sampler, tokenizer: PreTrainedTokenizerBase, faults: Faults) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.sampler = sampler
        self.tokenizer = tokenizer
        self.automata: dict[tuple[tuple[str, ...], frozenset[int]], TokenAutomaton] = {}
        self.faults = faults
        self._one_at_a_time = threading.Lock()
        self._connections: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.append(connection)
        return connection, address

    def server_close(self) -> None:
        for connection in self._connections:
            with suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RD)
        super().server_close()

    def automaton(self, body: dict[str, Any]) -> TokenAutomaton:
        stops, biased = tuple(body.get("stop", ())), frozenset(map(int, body.get("logit_bias", {})))
        if (stops, biased) not in self.automata:
            words = self.tokenizer
            ids = {i for i in range(len(words)) if any(stop in words.decode([i]) for stop in stops)}
            self.automata[stops, biased] = stop_automaton(
                {*ids, words.eos_token_id} - biased,
                self.sampler.tokenizer_size, self.sampler.vocab_size,
                # A trained model does not draw padding.
                banned=biased | {words.pad_token_id, words.unk_token_id},
            )  # fmt: skip
        return self.automata[stops, biased]

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        automaton = self.automaton(body)
        state = automaton.between[None]
        request = SampleRequest(tuple(body["prompt"]), body["seed"], state, body["max_tokens"])
        with self._one_at_a_time:
            (sample,) = self.sampler.sample([request], automaton)
        stopped = sample.ids[-1] in automaton.special_ids
        choice: dict[str, Any] = {
            "text": self.tokenizer.decode(sample.ids[:-1] if stopped else sample.ids),
            "finish_reason": "stop" if stopped else "length",
            "logprobs": {"token_logprobs": sample.log_probs},
        }
        if self.faults.form == "vllm":
            choice["token_ids"] = sample.ids
        elif self.faults.form == "llama.cpp":
            choice["logprobs"] = {"content": self._content(body, sample, stopped)}
        return {"choices": [choice]}

    def _content(self, body: dict[str, Any], sample: Sample, stopped: bool) -> list[dict[str, Any]]:
        """Return tokens as llama.cpp's server of October 2026 does: without the stop's, but with an end
        of text."""
        pairs = [*zip(sample.ids, sample.log_probs, strict=True)]
        if stopped and sample.ids[-1] != self.tokenizer.eos_token_id:
            pairs.pop()
        asked = body["post_sampling_probs"]
        return [{"id": i} | ({"prob": math.exp(p)} if asked else {"logprob": p}) for i, p in pairs]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        model: dict[str, Any] = {"id": "tiny"}
        if self.server.faults.says_context:
            model["max_model_len"] = self.server.faults.context
        self._send(200, json.dumps({"data": [model]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        faults = self.server.faults
        kinds = ("dropped", "refused", "garbled", "slow")
        shares = [getattr(faults, kind) for kind in kinds]
        (kind,) = faults.rng.choices((*kinds, "none"), [*shares, 1 - sum(shares)])
        faults.asked += 1
        faults.bodies.append(body)
        total = len(body["prompt"]) + body["max_tokens"]
        if faults.latency is not None:
            time.sleep(faults.latency(random.Random(body["seed"])))
        if faults.error is not None:
            status, text = faults.error
            self._send(status, text.encode())
        elif faults.context is not None and total > faults.context:
            words = f"This model's maximum context length is {faults.context} tokens"
            self._send(400, json.dumps({"error": {"message": words}}).encode())
        elif kind == "dropped":
            self.close_connection = True
        elif kind == "refused":
            self._send(503, b"busy")
        else:
            reply = json.dumps(self.server.complete(body)).encode()
            if kind == "slow":
                time.sleep(faults.seconds)
            faults.answered += kind != "garbled"
            self._send(200, reply[: len(reply) // 2] if kind == "garbled" else reply)

    def _send(self, status: int, body: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def serving(sampler: Sampler, tokenizer: PreTrainedTokenizerBase, faults: Faults) -> Iterator[str]:
    """Yield the address of a server that runs as long as the ``with`` block."""
    server = _Server(sampler, tokenizer, faults)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
