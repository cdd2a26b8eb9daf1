"""A second process that measures models while the first one trains.

Two small models side by side make better use of cores than one after the other.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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

    Within the block both processes have half of the threads each, at work or idle: how sums are rounded
    depends on the number of threads, and a run must not depend on how fast its machine is. The block
    waits for what is being measured at its end, and ends the process if it raises.

    Args:
        output, settings: those of the run.

    Raises:
        RuntimeError: from :meth:`submit` and at the end of the block, if the process failed.
    """

    def __init__(self, output: Path, settings: DemoSettings) -> None:
        self._output = output
        self._settings = settings
        self._threads = torch.get_num_threads()
        self._process: BaseProcess | None = None
        self._jobs: Connection | None = None

    @property
    def pid(self) -> int | None:
        """The number of the process, ``None`` until something is to be measured."""
        return None if self._process is None else self._process.pid

    def submit(self, name: str, share: int) -> None:
        """Have a share of the held-out problems measured, unless it was measured before."""
        if is_measured(self._output, name, share):
            return
        jobs = self._jobs or self._start()
        try:
            jobs.send((name, share))
        except ConnectionError:
            self._join()

    @contextmanager
    def all_threads(self) -> Iterator[None]:
        """Give this process all threads for a stage in which the other one is mostly idle."""
        torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(self._half)

    @property
    def _half(self) -> int:
        return max(1, self._threads // 2)

    def _start(self) -> Connection:
        context = get_context("spawn")
        theirs, self._jobs = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_measure_all, args=(theirs, self._half, self._output, self._settings)
        )
        self._process.start()
        theirs.close()
        return self._jobs

    def _join(self) -> None:
        assert self._process is not None
        self._process.join()
        if self._process.exitcode:
            raise RuntimeError("the evaluation failed; what it said stands above")

    def __enter__(self) -> Self:
        torch.set_num_threads(self._half)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._jobs is not None:
                self._jobs.close()
                if error is None:
                    self._join()
        finally:
            if self._process is not None:
                self._process.kill()
            torch.set_num_threads(self._threads)


def _measure_all(jobs: Connection, threads: int, output: Path, settings: DemoSettings) -> None:
    """Measure what is sent, until the sender closes the connection."""
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    while True:
        try:
            name, share = jobs.recv()
        except EOFError:
            return
        measure_share(output, settings, name, share)


def _exit_with(parent: BaseProcess) -> None:
    """End this process once its parent is gone, since a killed parent cannot end it."""
    wait([parent.sentinel])
    os._exit(1)
