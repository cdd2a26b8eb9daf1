"""The process that worker processes are forked from: ``python -P -m rftt.verifiers.math.server FD``.

It imports math-verify once. For each connection that it is sent it forks a worker, which takes a few
milliseconds; it runs nothing that a model wrote, so it always answers. It ends when the process that
started it ends.

A worker reads a line of JSON, ``[seconds, a, b]``, and writes one, ``[is_equal, reason, is_lasting]``.
The kernel ends it when its time is up: math-verify's own limit works in no thread and does not interrupt
calls in C.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
from typing import Final

from rftt.verifiers.math.compare import equal
from rftt.verifiers.math.size import TooLargeError

_MEMORY: Final = 2 * 1024**3
"""Most bytes of address space of a worker; without an answer it has some 100 MB."""

READY: Final = b"!"


def main() -> None:
    """Serve requests from the socket whose descriptor is the first argument."""
    control = socket.socket(fileno=int(sys.argv[1]))
    # math-verify warns at each call that it keeps no time.
    logging.disable(logging.WARNING)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for kind, most in ((resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    for warm in (r"\frac{x+1}{2}", r"(1, \infty)", "y = 2x", r"\sqrt{2}"):
        equal(warm, "x + 1.5")
    gc.freeze()
    control.sendall(READY)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        for descriptor in descriptors:
            _fork(control, socket.socket(fileno=descriptor))


def _fork(control: socket.socket, connection: socket.socket) -> None:
    try:
        is_worker = os.fork() == 0
    except OSError:
        # Whoever waits at the other end sees that it is closed.
        is_worker = False
    if not is_worker:
        connection.close()
        return
    try:
        control.close()
        connection.sendall(READY)
        serve(connection)
    finally:
        os._exit(0)


def serve(connection: socket.socket) -> None:
    """Answer questions until there are no more, or until one takes too long and ends the process."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with connection.makefile("r") as questions:
        for line in questions:
            seconds, a, b = json.loads(line)
            signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
            reply = _answer(a, b)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.sendall(json.dumps(reply).encode() + b"\n")


def _answer(a: str, b: str) -> tuple[bool | None, str, bool]:
    try:
        return equal(a, b), "", True
    except TooLargeError as error:
        return None, str(error), True
    except MemoryError:
        return None, f"it takes more memory than {_MEMORY // 1024**2} MB", False
    except Exception as error:
        return None, f"math-verify failed: {type(error).__name__}: {str(error)[:200]}", True


if __name__ == "__main__":
    main()
