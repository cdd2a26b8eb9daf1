"""A completions server in a process of its own, which can be killed.

What it says is a function of what it is asked.

As a program: ``python stub_server.py SETTINGS`` with JSON of :class:`Settings`. It needs no package, so
that it starts in a moment.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Asked = tuple[int, tuple[int, ...]]
"""A request's seed and prompt."""


@dataclass
class Settings:
    """What a stub is told.

    Attributes:
        port: where it listens.
        log: a file that gets a line for each request, whatever becomes of it.
        bodies: the ids of what it may say.
        end: the id that ends each.
        die_after: answers after which it kills itself, with a request unanswered; 0 for never.
        unready: requests that it answers with 503 first, as a server that loads its model.
    """

    port: int
    log: str
    bodies: list[list[int]]
    end: int
    die_after: int = 0
    unready: int = 0


class _Server(ThreadingHTTPServer):
    request_queue_size = 512

    def __init__(self, settings: Settings) -> None:
        super().__init__(("127.0.0.1", settings.port), _Handler)
        self.settings = settings
        self.log = Path(settings.log).open("a", encoding="utf-8")  # noqa: SIM115
        self.lock = threading.Lock()
        self.answered = self.refused = 0

    def is_ready(self) -> bool:
        with self.lock:
            self.refused += 1
            return self.refused > self.settings.unready

    def note(self, body: dict[str, Any]) -> None:
        """Log a request, and die if it is time."""
        with self.lock:
            self.log.write(json.dumps([body["seed"], body["prompt"]]) + "\n")
            self.log.flush()
            if self.settings.die_after and self.answered >= self.settings.die_after:
                os.kill(os.getpid(), signal.SIGKILL)
            self.answered += 1

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        rng = random.Random(f"{body['seed']} {body['prompt']}")
        ids = [*rng.choice(self.settings.bodies), self.settings.end][: body["max_tokens"]]
        stopped = ids[-1] == self.settings.end
        return {
            "text": "",
            "finish_reason": "stop" if stopped else "length",
            "token_ids": ids,
            "logprobs": {"token_logprobs": [-rng.random() for _ in ids]},
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # a reply in one piece: a second one would wait for the first's receipt
    server: _Server

    def do_GET(self) -> None:
        self._send({"data": [{"id": "stub", "max_model_len": 512}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/completions":
            self.send_error(404)
        elif not self.server.is_ready():
            self.send_error(503)
        else:
            self.server.note(body)
            time.sleep(0.001)
            self._send({"choices": [self.server.complete(body)]})

    def _send(self, reply: object) -> None:
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def read_log(path: Path) -> list[Asked]:
    """Return what was asked, in order; a line that a kill cut short is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    asked = [json.loads(line) for line in lines if line.endswith("\n")]
    return [(seed, tuple(prompt)) for seed, prompt in asked]


@contextmanager
def stub(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """Run a stub as long as the ``with`` block, or until it kills itself."""
    command = [sys.executable, "-I", "-S", __file__, json.dumps(asdict(settings))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    server = _Server(Settings(**json.loads(sys.argv[1])))
    print("ready", flush=True)
    server.serve_forever()
