"""A small server with vLLM's pooling endpoint over a real model, and with faults on request."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from attrs import define, field

Change = Callable[[list[list[float]]], Any]


def all_right(rows: list[list[float]]) -> list[list[float]]:
    """Leave the rows as they are."""
    return rows


@define(slots=False)
class Pooling:
    """What a server does.

    Attributes:
        model: a token classifier.
        step_tag: rows are given for this id only; ``None`` gives a row for each id.
        change: makes the rows of the reply of the right ones.
        statuses: the first replies are errors of these statuses.
        words: text of an error.
        body: a reply to send as it is.
        seconds: how long each reply takes.
        drip: whether a reply is sent a byte at a time and never ends.
        requests: bodies of all requests, with their headers under ``"headers"``.
        most_at_once: most requests that were in work at the same time.
    """

    model: Any
    step_tag: int | None
    change: Change = all_right
    statuses: list[int] = field(factory=list)
    words: str = "no"
    body: bytes | None = None
    seconds: float = 0.0
    drip: bool = False
    requests: list[dict[str, Any]] = field(factory=list)
    most_at_once: int = 0
    now: int = 0
    lock: threading.Lock = field(factory=threading.Lock)

    def rows(self, ids: list[int]) -> list[list[float]]:
        with self.lock, torch.no_grad():
            probabilities = self.model(torch.tensor([ids])).logits[0].softmax(-1).tolist()
        kept = zip(ids, probabilities, strict=True)
        return [row for i, row in kept if self.step_tag in (None, i)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        pooling: Pooling = self.server.pooling  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with pooling.lock:
            pooling.requests.append({**body, "headers": dict(self.headers), "path": self.path})
            pooling.now += 1
            pooling.most_at_once = max(pooling.most_at_once, pooling.now)
            status = pooling.statuses.pop(0) if pooling.statuses else 200
        time.sleep(pooling.seconds)
        if status != 200:
            self._send(status, pooling.words.encode())
        elif pooling.body is not None:
            self._send(200, pooling.body)
        else:
            data = [{"index": 0, "data": pooling.change(pooling.rows(body["input"]))}]
            self._send(200, json.dumps({"object": "list", "data": data}).encode())

    def _send(self, status: int, body: bytes) -> None:
        pooling: Pooling = self.server.pooling  # type: ignore[attr-defined]
        with pooling.lock:
            pooling.now -= 1
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            for n in range(len(body)) if pooling.drip else ():
                self.wfile.write(body[n : n + 1])
                time.sleep(0.2)
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512


@contextmanager
def pooling_server(pooling: Pooling) -> Iterator[str]:
    """Yield the address of the endpoint of a server that runs as long as the ``with`` block."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.pooling = pooling  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/pooling"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
