"""Promises on sharing: one verifier in several threads and forks, and one that was interrupted."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from random import Random
from typing import Final

from rftt.interfaces import State, Verifier
from rftt.testing.promises import ContractViolation
from rftt.testing.verifier.bench import Bench, alarm, within
from rftt.testing.verifier.promises import ForksBroken, InterruptBroken, ThreadsBroken

_log = logging.getLogger(__name__)

_SHARERS: Final = 4
_ROUNDS: Final = 3
_ROUND_SECONDS: Final = 1.0
"""Wall time after which no further round begins."""
_LEAVE_SECONDS: Final = 2.0
"""Wall time that a child has to end the processes that its verifier started."""
_INTERRUPTS: Final = 12
_FEWEST_INTERRUPTS: Final = 3
_INTERRUPT_SECONDS: Final = 3.0
"""Wall time after which no further interrupt is tried."""


def check_threads(bench: Bench) -> None:
    """Check that threads that judge at once, one by one and in one call, have their own verdicts."""
    for verifier in (_half_used(bench, ThreadsBroken)[0], bench.fresh()):
        begin = threading.Barrier(_SHARERS)
        found: list[ContractViolation | None] = []

        def share(
            number: int, verifier: Verifier = verifier, begin: threading.Barrier = begin,
            found: list[ContractViolation | None] = found,
        ) -> None:  # fmt: skip
            begin.wait()
            found.append(_judged(bench, verifier, number, ThreadsBroken))

        threads = [threading.Thread(target=share, args=(n,), daemon=True) for n in range(_SHARERS)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + _patience(bench)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            raise ThreadsBroken(f"{_SHARERS} threads: one has no reply within {_patience(bench):g} s")
        if violation := next((v for v in found if v is not None), None):
            raise violation


def check_forks(bench: Bench) -> None:
    """Check that forks of a used verifier have their own verdicts while the parent judges, made while
    it is idle and while another thread of the parent judges."""
    if not hasattr(os, "fork"):
        _log.warning("check_verifier: there is no os.fork here, so forks were not tried")
        return
    _fork_and_judge(bench, _half_used(bench, ForksBroken)[0])
    verifier, _ = _half_used(bench, ForksBroken)
    with _judging_thread(bench, verifier):
        _fork_and_judge(bench, verifier)


def check_interrupt(bench: Bench) -> None:
    """Check that verdicts are right after calls that a signal interrupted, at different moments."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(os, "fork"):
        _log.warning(
            "check_verifier: signals reach only the main thread, so interrupts were not tried; call it "
            "from there"
        )
        return
    verifier, rest = _half_used(bench, InterruptBroken)
    start = time.perf_counter()
    bench.judge(verifier, rest, InterruptBroken)
    whole = time.perf_counter() - start
    for number in range(_INTERRUPTS):
        if number >= _FEWEST_INTERRUPTS and time.perf_counter() - start > _INTERRUPT_SECONDS:
            break
        # A verifier that remembers is interrupted only while it has something new to judge.
        verifier, rest = _half_used(bench, InterruptBroken)
        # Moments all over the call, far ones first: 0.5, 0.25, 0.75, 0.125, ...
        moment = max(1e-5, whole * _spread(number + 1))
        try:
            with alarm(moment, KeyboardInterrupt):
                verifier.judge(rest)
        except KeyboardInterrupt:
            pass
        except Exception as error:
            raise InterruptBroken(f"interrupted by a signal, judge raised {error!r}") from error
        for _ in range(2):
            how = f"after a call that was interrupted at {moment * 1000:.3g} ms"
            bench.try_all(verifier, InterruptBroken, how)


def _spread(number: int) -> float:
    """Return term ``number`` of van der Corput's sequence in base 2."""
    value, part = 0.0, 0.5
    while number:
        value, part, number = value + part * (number % 2), part / 2, number // 2
    return value


def _half_used(bench: Bench, broken: type[ContractViolation]) -> tuple[Verifier, list[State]]:
    """Return a verifier that has judged half of the states, and the other half.

    What it starts at first use is there, and what it remembers is not all.
    """
    verifier, order = bench.fresh(), bench.shuffled()
    half = (len(order) + 1) // 2
    bench.judge_each(verifier, [bench.states[n] for n in order[:half]], broken)
    return verifier, [bench.states[n] for n in order[half:]]


def _patience(bench: Bench) -> float:
    """Return how long some sharers may take to judge all states several times."""
    return bench.seconds * 3


def _judged(
    bench: Bench, verifier: Verifier, number: int, broken: type[ContractViolation]
) -> ContractViolation | None:
    """Judge all states several times, in another order for each number; return what went wrong."""
    order = Random(number).sample(range(len(bench.states)), len(bench.states))
    began = time.monotonic()
    try:
        for rounds in range(_ROUNDS):
            if rounds and time.monotonic() - began > _ROUND_SECONDS:
                break
            single = [bench.judge(verifier, [bench.states[n]], broken)[0] for n in order]
            bench.compare(order, single, broken, "one by one")
            if bench.together:
                together = bench.judge(verifier, [bench.states[n] for n in order], broken)
                bench.compare(order, together, broken, "in one call")
    except ContractViolation as violation:
        return violation
    return None


@contextmanager
def _judging_thread(bench: Bench, verifier: Verifier) -> Iterator[None]:
    """Judge in another thread for as long as the block runs."""
    done = threading.Event()

    def go_on() -> None:
        while not done.is_set():
            bench.judge(verifier, bench.states, ForksBroken)

    thread = threading.Thread(target=_quietly, args=(go_on,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(bench.seconds)


def _quietly(function: Callable[[], None]) -> None:
    """Call a function whose violations another check reports."""
    try:
        function()
    except ContractViolation as violation:
        _log.debug("beside the forks: %s", violation)


def _fork_and_judge(bench: Bench, verifier: Verifier) -> None:
    context = multiprocessing.get_context("fork")
    children = []
    with warnings.catch_warnings():
        # That threads are running is what is tried here.
        warnings.simplefilter("ignore", DeprecationWarning)
        for number in range(1, _SHARERS - 1):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(theirs, bench, verifier, number))
            process.start()
            theirs.close()
            children.append((process, ours))
    try:
        violation = _judged(bench, verifier, 0, ForksBroken)
        deadline = time.monotonic() + _patience(bench)
        replies = [_reply(connection, deadline) for _, connection in children]
    finally:
        for process, connection in children:
            process.join(_LEAVE_SECONDS)
            process.kill()
            process.join()
            connection.close()
    if violation is not None:
        raise ForksBroken(f"in the parent, {violation.what}", violation.scenario)
    for reply in replies:
        if reply is None:
            raise ForksBroken(f"a forked process has no reply within {_patience(bench):g} s, or died")
        if reply:
            raise ForksBroken(f"in a forked process, {reply}")


def _child(connection: Connection, bench: Bench, verifier: Verifier, number: int) -> None:
    with within(_patience(bench)):
        violation = _judged(bench, verifier, number, ForksBroken)
    text = "" if violation is None else f"{violation.what}\n\n{violation.scenario}"
    connection.send_bytes(text.encode("utf-8", "backslashreplace"))


def _reply(connection: Connection, deadline: float) -> str | None:
    """Return what a child found wrong, ``None`` if it says nothing in time."""
    try:
        if not connection.poll(max(0.0, deadline - time.monotonic())):
            return None
        return connection.recv_bytes().decode()
    except (EOFError, OSError):
        return None
