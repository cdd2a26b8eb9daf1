"""A time limit on calls, in any thread.

A thread of its own looks at calls and raises an exception in the thread that is late. That needs no
signal, which only the main thread may handle, and no other process, which would need a strategy that can
be pickled and a debugger that can follow. Python code is interrupted between two instructions. A call
that waits in C, for a lock or a reply, is woken up in the main thread as Ctrl-C would wake it; elsewhere
all that can be done is to say so.
"""

from __future__ import annotations

import ctypes
import logging
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)

_LOOKS: Final = 20
"""Looks within the limit, at least."""
_TICK: Final = 0.25
"""Most seconds between two looks."""


class OutOfTimeError(BaseException):
    """Raised in a call that goes on after the limit; no ``except Exception`` holds it up."""


class TimeLimit:
    """Interrupt calls that take longer than ``seconds``. Use it as a context manager.

    Args:
        seconds: most wall time of one call.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._current: list[int] | None = None
        self._late: list[int] | None = None
        self._over = threading.Event()
        self._ignored: Any = None
        self._thread = threading.Thread(target=self._watch, name="rftt-time-limit", daemon=True)

    def __enter__(self) -> TimeLimit:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # As in a shell's background jobs, whose calls in C nothing could wake up.
            self._ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._ignored is not None:
            signal.signal(signal.SIGINT, self._ignored)

    def call(self, function: Callable[[], T]) -> T:
        """Return what a function returns. Calls are not nested.

        Raises:
            OutOfTimeError: if it takes too long.
        """
        # Written without a lock: an exception that comes from another thread could leave it locked.
        self._current = current = [threading.get_ident()]
        try:
            return function()
        except KeyboardInterrupt as error:
            if self._late is current:
                raise OutOfTimeError().with_traceback(error.__traceback__) from None
            raise
        finally:
            self._current = None

    def _watch(self) -> None:
        # Looks are counted, and no clock is read, so that a machine that stands still is not a call
        # that does not return.
        tick = min(_TICK, self.seconds / _LOOKS)
        last, looks = None, 0
        while not self._over.wait(tick):
            current = self._current
            last, looks = current, looks + 1 if current is last else 0
            if current is None or (late := looks * tick - self.seconds) <= 0:
                continue
            self._late = current
            # It may have been caught on its way, by an ``except`` without a name: then again.
            number = round(late / tick) % (2 * _LOOKS)
            if number == 1:
                _raise_in(current[0], OutOfTimeError)
            elif number == _LOOKS:
                self._wake(current[0])

    def _wake(self, thread: int) -> None:
        is_main = thread == threading.main_thread().ident
        handled = is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if handled and hasattr(signal, "pthread_kill"):
            # What waits to be raised must not come on top.
            _raise_in(thread, None)
            signal.pthread_kill(thread, signal.SIGINT)
        else:
            _log.critical(
                "a call of the strategy goes on after %g s, and cannot be interrupted: it waits in C "
                "code; run the check in the main thread", self.seconds,
            )  # fmt: skip


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Have a thread raise an error at its next instruction; ``None`` takes that back."""
    held = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), held)
