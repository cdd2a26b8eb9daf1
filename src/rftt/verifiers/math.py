"""The verifier of mathematical answers: equal by math-verify, within a hard time limit."""

from __future__ import annotations

import json
import logging
import re
import selectors
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from threading import RLock
from typing import Any, Final

from attrs import define, field, frozen

from rftt.interfaces import State, Verdict, Verifier
from rftt.problems.problem import BOXED

_log = logging.getLogger(__name__)

_PLAIN: Final = re.compile(r"[+-]?([0-9]{1,30}|[1-9][0-9]{0,2}(,[0-9]{3}){1,10})(\.[0-9]{1,30})?\Z")
"""A plain number; commas only between groups of three digits."""

_CACHE_SIZE: Final = 100_000


def boxed(text: str) -> str | None:
    """Return the content of the last ``\\boxed{...}`` whose braces balance, ``None`` if none has."""
    start = text.rfind(BOXED)
    while start >= 0:
        depth = 1
        for position in range(start + len(BOXED), len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[start + len(BOXED) : position].strip() or None
        start = text.rfind(BOXED, 0, start)
    return None


@frozen
class _Comparison:
    """Whether two answers are equal, ``None`` if that was not decided for a ``reason``."""

    is_equal: bool | None
    reason: str = ""


@define(eq=False)
class MathVerifier(Verifier):
    """Score 1 if the boxed answer of the last step is equivalent to the problem's, else 0.

    A solution without a boxed answer scores 0. Without a gold answer, or when a comparison fails or
    takes longer than ``seconds``, the verifier abstains; it gives the extracted answer all the same.

    Plain numbers are compared exactly, in this process. Everything else goes to math-verify in a
    worker process that is killed when its time is up, so nothing a model writes can hang a run. A copy,
    by :mod:`pickle` or :mod:`copy`, has a worker of its own.

    Attributes:
        seconds: most wall time of one comparison.
    """

    seconds: float = 5.0
    _worker: subprocess.Popen[str] | None = field(default=None, init=False, repr=False)
    _lock: RLock = field(factory=RLock, init=False, repr=False)
    """Guards all that follows and the worker: its replies come in the order of the questions."""
    _cache: dict[tuple[str, str], _Comparison] = field(factory=dict, init=False, repr=False)
    _undecided: int = field(default=0, init=False, repr=False)

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [self._verdict(state) for state in states]

    def _verdict(self, state: State) -> Verdict:
        gold = state.problem.answer
        answer = boxed(state.steps[-1].text) if state.steps else None
        if answer is None:
            return Verdict(None if gold is None else 0.0, reason="the last step has no boxed answer")
        if gold is None:
            return Verdict(None, answer, "the problem has no gold answer")
        comparison = self._compare(gold, answer)
        score = None if comparison.is_equal is None else float(comparison.is_equal)
        return Verdict(score, answer, comparison.reason)

    def equivalent(self, a: str, b: str) -> bool | None:
        """Whether two answers are equal, whichever comes first; ``None`` if the comparison fails or
        takes too long."""
        return self._compare(a, b).is_equal

    def _compare(self, a: str, b: str) -> _Comparison:
        first, second = sorted((a.strip(), b.strip()))
        if first == second:
            return _Comparison(True)
        if _PLAIN.match(first) and _PLAIN.match(second):
            return _Comparison(_number(first) == _number(second))
        with self._lock:
            known = self._cache.get((first, second))
            return self._ask_worker(first, second) if known is None else known

    def _ask_worker(self, a: str, b: str) -> _Comparison:
        if self._worker is None:
            self._worker = _start_worker()
        comparison = _exchange(self._worker, (a, b), self.seconds)
        if comparison is None:
            # Another try may be faster, so this is not cached.
            self.close()
            comparison = _Comparison(None, f"no verdict within {self.seconds:g} s")
        else:
            if len(self._cache) >= _CACHE_SIZE:
                del self._cache[next(iter(self._cache))]
            self._cache[a, b] = comparison
        if comparison.is_equal is None:
            self._log_undecided(a, b, comparison.reason)
        return comparison

    def _log_undecided(self, a: str, b: str, reason: str) -> None:
        self._undecided += 1
        # Only at 1, 10, 100 and so on: a model that writes such answers writes many.
        if str(self._undecided).strip("0") == "1":
            _log.warning(
                "%d answers could not be compared so far; the last are %.60r and %.60r: %s",
                self._undecided, a, b, reason,
            )  # fmt: skip

    def close(self) -> None:
        """End the worker process; a later comparison starts a new one."""
        with self._lock:
            if self._worker is not None:
                self._worker.kill()
                self._worker.communicate()
                self._worker = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.seconds,)

    def __fingerprint__(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def __del__(self) -> None:
        self.close()


def _number(plain: str) -> Fraction:
    return Fraction(plain.replace(",", ""))


def _start_worker() -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "rftt.verifiers.math_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    # The first line says that imports are over: they must not count against an answer's time.
    assert worker.stdout is not None
    if worker.stdout.readline().strip() != "ready":
        worker.kill()
        raise RuntimeError(
            "the math worker did not start; run 'python -m rftt.verifiers.math_worker' to see why"
        )
    return worker


def _exchange(
    worker: subprocess.Popen[str], question: tuple[str, str], seconds: float
) -> _Comparison | None:
    """Send a line and wait for one, ``None`` if none comes in time or the worker is gone."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        worker.stdin.write(json.dumps(question) + "\n")
        worker.stdin.flush()
    except BrokenPipeError:
        return None
    with selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        if not selector.select(seconds):
            return None
    line = worker.stdout.readline()
    return _Comparison(**json.loads(line)) if line else None
