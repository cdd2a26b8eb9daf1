"""Locks that a forked process finds open, and forks that wait for models to finish computing."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_PATIENCE: Final = 60.0
"""Seconds that a fork waits for passes of other threads."""


class ForkLock:
    """A lock that belongs to no object, so that none is kept from being pickled, and that a forked
    process finds open, whatever other threads held it when the process was forked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _Passes:
    """The threads in which a model computes.

    A fork copies the locks of native code that other threads hold, but not the threads, and hangs at
    the first of them: measured here with torch, once in some 1,000 forks beside two threads that score.
    So a fork waits until no other thread computes, and none begins until it is over.
    """

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._wait, after_in_parent=self._go_on, after_in_child=self._renew
            )

    def _renew(self) -> None:
        self._change = threading.Condition()
        self._threads: list[int] = []

    def _wait(self) -> None:
        me = threading.get_ident()
        self._change.acquire()
        self._change.wait_for(lambda: all(one == me for one in self._threads), _PATIENCE)

    def _go_on(self) -> None:
        self._change.release()

    def begin(self) -> None:
        with self._change:
            self._threads.append(threading.get_ident())

    def end(self) -> None:
        me = threading.get_ident()
        with self._change:
            # A process that was forked within a pass does not know of it.
            if me in self._threads:
                self._threads.remove(me)
            self._change.notify_all()


_passes: Final = _Passes()


@contextmanager
def computing() -> Iterator[None]:
    """Keep other threads from forking this process inside, where a model computes."""
    try:
        _passes.begin()
        yield
    finally:
        _passes.end()
