"""Worker processes for questions that may take any time, memory or their process: each is answered
within its limit, from any thread, in forks, and after an interrupt."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from threading import RLock
from typing import Final

from attrs import define, field

from rftt.verifiers.math.worker import ENDED, GRACE, Reply, Worker, read_reply, time_left

_MODULE: Final = "rftt.verifiers.math.server"
_START_SECONDS: Final = 60.0


@define(eq=False)
class WorkerPool:
    """Worker processes, forked in milliseconds from one that has imported math-verify.

    A worker serves one call at a time and goes back only once its reply is read whole: one whose call
    was interrupted is dropped, so no reply belongs to an earlier question.
    """

    _server: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _control: socket.socket | None = field(default=None, init=False)
    _starting: RLock = field(factory=RLock, init=False)
    _idle: deque[Worker] = field(factory=deque, init=False)

    def ask(self, questions: Sequence[tuple[str, str]], seconds: float, at_once: int) -> list[Reply]:
        """Return a reply for each question, in order.

        Args:
            questions: pairs of answers.
            seconds: most wall time of one question, from when a worker has it.
            at_once: most workers that this call uses at the same time.

        Raises:
            RuntimeError: if no worker can be started.
        """
        replies: dict[int, Reply] = {}
        waiting = deque((number, seconds) for number in range(len(questions)))
        busy: set[Worker] = set()
        try:
            with selectors.DefaultSelector() as selector:
                while len(replies) < len(questions):
                    while waiting and len(busy) < at_once:
                        number, left = waiting.popleft()
                        busy.add(worker := self._hand_out(number, questions[number], left))
                        selector.register(worker.connection, selectors.EVENT_READ, worker)
                    ready = {key.data for key, _ in selector.select(time_left(busy))}
                    for worker in list(busy):
                        reply = read_reply(worker, worker in ready, seconds)
                        if reply is None:
                            continue
                        selector.unregister(worker.connection)
                        busy.remove(worker)
                        left = worker.ends - time.monotonic()
                        if reply is ENDED and left > 0 and not worker.is_fresh:
                            # It may have ended for what it did before: a fresh one decides.
                            worker.connection.close()
                            self._idle.clear()
                            waiting.append((worker.number, left))
                            continue
                        replies[worker.number] = reply
                        self._take_back(worker, reply, at_once)
        finally:
            for worker in busy:
                worker.connection.close()
        return [replies[number] for number in range(len(questions))]

    def _hand_out(self, number: int, question: tuple[str, str], seconds: float) -> Worker:
        line = json.dumps((seconds, *question)).encode() + b"\n"
        while True:
            try:
                worker = self._idle.pop()
            except IndexError:
                worker = Worker(self._connect())
            worker.number, worker.received = number, b""
            worker.ends = time.monotonic() + seconds
            try:
                worker.connection.sendall(line)
            except OSError:
                if not worker.is_fresh:
                    worker.connection.close()
                    continue
            return worker

    def _take_back(self, worker: Worker, reply: Reply, at_once: int) -> None:
        if reply.is_lasting and len(self._idle) < at_once:
            worker.is_fresh = False
            self._idle.append(worker)
        else:
            worker.connection.close()

    def _connect(self) -> socket.socket:
        """Have a new worker forked, and wait until it is there: some milliseconds.

        Raises:
            RuntimeError: if none is.
        """
        for _ in range(3):
            ours, theirs = socket.socketpair()
            with theirs, self._starting:
                if not self._is_alive():
                    self._start()
                assert self._control is not None
                with contextlib.suppress(OSError):
                    socket.send_fds(self._control, [b"+"], [theirs.fileno()])
            ours.settimeout(_START_SECONDS)
            with contextlib.suppress(OSError):
                if ours.recv(1):
                    ours.settimeout(GRACE)
                    return ours
            # Whoever should have forked it is dead or cannot: again from a new one.
            ours.close()
            self.close()
        raise RuntimeError(
            "no process could be forked to compare answers: too many processes, or no memory"
        )

    def _is_alive(self) -> bool:
        return self._server is not None and self._control is not None and self._server.poll() is None

    def _start(self) -> None:
        self.close()
        ours, theirs = socket.socketpair()
        # A session of its own: an interrupt from the keyboard is for the caller alone. The current
        # folder is not on the path (-P): a file of the user's must not be taken for a library's.
        server = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        theirs.close()
        # Importing must not count against an answer's time.
        ours.settimeout(_START_SECONDS)
        try:
            is_ready = bool(ours.recv(1))
        except OSError:
            is_ready = False
        if not is_ready:
            ours.close()
            server.kill()
            server.wait()
            raise RuntimeError(
                "the process that compares answers did not start; "
                f"run 'python -P -m {_MODULE} 0' to see why"
            )
        self._server, self._control = server, ours

    def close(self) -> None:
        """End all processes; a later question starts new ones."""
        with self._starting:
            self.forget()
            if self._server is not None:
                self._server.kill()
                self._server.wait()
                self._server = None

    def forget(self) -> None:
        """Close this process's ends of all connections."""
        while self._idle:
            self._idle.pop().connection.close()
        if self._control is not None:
            self._control.close()
            self._control = None


_pool = WorkerPool()


def pool() -> WorkerPool:
    """Return the pool of this process, which all verifiers share."""
    return _pool


def _replace_in_fork() -> None:
    """Leave the parent's workers to the parent: a fork has a pool, and a lock, of its own."""
    global _pool
    _pool.forget()
    _pool = WorkerPool()


os.register_at_fork(after_in_child=_replace_in_fork)
atexit.register(lambda: _pool.close())
