"""A second process that measures models while the first one trains.

Two small models side by side make better use of cores than one after the other.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from rftt.demo.measure import is_measured, measure_share
from rftt.demo.settings import DemoSettings


class Evaluator:
    """Measures models in a process of its own, one after the other, as a context manager.

    While it is at work both processes have half of the threads each. The block waits for what is being
    measured at its end, and ends the process if it raises.

    Args:
        output, settings: those of the run.

    Raises:
        RuntimeError: from any method and at the end of the block, if the process failed.
    """

    def __init__(self, output: Path, settings: DemoSettings) -> None:
        self._output = output
        self._settings = settings
        self._threads = torch.get_num_threads()
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._pending = 0

    @property
    def pid(self) -> int | None:
        """The number of the process, ``None`` until something is to be measured."""
        return None if self._process is None else self._process.pid

    def submit(self, name: str, share: int) -> None:
        """Have a share of the held-out problems measured, unless it was measured before."""
        if is_measured(self._output, name, share):
            return
        connection = self._connection or self._start()
        try:
            connection.send((name, share))
        except ConnectionError:
            self._join()
        self._pending += 1
        self.balance_threads()

    def balance_threads(self) -> None:
        """Take all threads for this process while the other one is idle, and half of them else."""
        if self._connection is None:
            return
        try:
            while self._pending and self._connection.poll():
                self._connection.recv()
                self._pending -= 1
        except (EOFError, ConnectionError):
            self._join()
        torch.set_num_threads(self._half if self._pending else self._threads)

    @property
    def _half(self) -> int:
        return max(1, self._threads // 2)

    def _start(self) -> Connection:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_measure_all, args=(theirs, self._half, self._output, self._settings)
        )
        self._process.start()
        theirs.close()
        return self._connection

    def _join(self) -> None:
        assert self._process is not None
        self._process.join()
        if self._process.exitcode:
            raise RuntimeError("the evaluation failed; what it said stands above")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None or self._connection is None:
            return
        try:
            if error is None:
                with suppress(ConnectionError):
                    self._connection.send(None)
                self._join()
        finally:
            self._process.kill()
            torch.set_num_threads(self._threads)


def _measure_all(jobs: Connection, threads: int, output: Path, settings: DemoSettings) -> None:
    """Measure what is sent, and say when each is done, until ``None`` is sent."""
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    while (job := jobs.recv()) is not None:
        name, share = job
        measure_share(output, settings, name, share)
        jobs.send(job)


def _exit_with(parent: BaseProcess) -> None:
    """End this process once its parent is gone, since a killed parent cannot end it."""
    wait([parent.sentinel])
    os._exit(1)
