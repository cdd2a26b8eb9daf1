"""A worker process as its caller sees it: a connection, a question in work, a reply or what stood in
its way."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable
from typing import Final

from attrs import define, frozen

GRACE: Final = 0.5
"""Seconds beyond the limit after which a worker that the kernel has not ended counts as stalled."""


@frozen
class Reply:
    """What came of a question.

    Attributes:
        is_equal: the answer, ``None`` if there is none for a ``reason``.
        reason: why not.
        is_lasting: whether another try would give the same.
    """

    is_equal: bool | None
    reason: str = ""
    is_lasting: bool = True


@define(eq=False)
class Worker:
    """A worker process at the other end of a connection; it ends when the connection is closed.

    Attributes:
        connection: the socket to it.
        is_fresh: whether it has answered nothing yet.
        number: the place of the question that it works on.
        ends: when its time is up, by the monotonic clock.
        received: what has come of its reply.
    """

    connection: socket.socket
    is_fresh: bool = True
    number: int = -1
    ends: float = 0.0
    received: bytes = b""


ENDED: Final = Reply(
    None, "the process that compared the answers ended: it was killed, or crashed", False
)


def time_left(workers: Iterable[Worker]) -> float:
    """Return the seconds until the first of the workers is overdue, grace included; never below 0."""
    return max(0.0, min(worker.ends for worker in workers) + GRACE - time.monotonic())


def read_reply(worker: Worker, is_ready: bool, seconds: float) -> Reply | None:
    """Read what has come from a worker, ``None`` while its reply is not whole."""
    if is_ready:
        try:
            received = worker.connection.recv(1 << 16)
        except OSError:
            received = b""
        worker.received += received
        if worker.received.endswith(b"\n"):
            return Reply(*json.loads(worker.received))
        if not received:
            is_over = time.monotonic() >= worker.ends
            return Reply(None, f"no verdict within {seconds:g} s", False) if is_over else ENDED
    if time.monotonic() >= worker.ends + GRACE:
        return Reply(None, f"the process that compared the answers stalled for {seconds:g} s", False)
    return None
