"""The verifier that is checked, what it is tried on, and calls that are held to a time limit."""

from __future__ import annotations

import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any, TypeVar

from attrs import define, field, frozen

from rftt.interfaces import State, Verdict, Verifier
from rftt.search.verdicts import check_verdicts
from rftt.testing.promises import ContractViolation
from rftt.testing.verifier.promises import PickleBroken

T = TypeVar("T")
Build = Callable[[], Verifier]
"""Makes a verifier; always with the same settings."""


class OutOfTime(BaseException):
    """Raised in a call that goes on after the limit; no ``except Exception`` holds it up."""


@define(eq=False)
class Bench:
    """What a verifier is made from and tried on.

    Attributes:
        build: makes it, or is it.
        states: what it judges.
        answers: what it compares.
        seconds: most wall time of a call for one state.
        tolerance: the difference of two scores that counts as none.
        random: decides orders and pairs.
        copies: whether a verifier that was given, not built, can be copied by pickle.
        together: whether states may share a call where that is not what is tried.
        expected: the verdict on each state, judged alone.
    """

    build: Build | Verifier
    states: list[State]
    answers: list[str]
    seconds: float
    tolerance: float
    random: Random
    copies: bool = True
    together: bool = True
    expected: list[Verdict] = field(factory=list)

    def original(self) -> Verifier:
        """Return a verifier as it is built; where one was given, that one."""
        return self.build if isinstance(self.build, Verifier) else self.build()

    def fresh(self) -> Verifier:
        """Return a verifier that has judged nothing; where one was given, a copy if there can be one."""
        if isinstance(self.build, Verifier) and self.copies:
            return copied(self.build)
        return self.original()

    def judge(
        self, verifier: Verifier, states: Sequence[State], broken: type[ContractViolation]
    ) -> list[Verdict]:
        """Judge states in one call.

        Raises:
            ContractViolation: ``broken``, if it raises, returns no verdicts or takes too long.
        """
        # A call may take as long as its states would alone.
        limit = self.seconds * max(1, len(states))
        given = list(states)
        try:
            with within(limit):
                verdicts = check_verdicts(verifier, given)
        except OutOfTime:
            raise broken(f"no reply within {limit:g} s", shown(states)) from None
        except Exception as error:
            raise broken(f"judge raised {error!r}", shown(states)) from error
        return verdicts

    def try_all(self, verifier: Verifier, broken: type[ContractViolation], how: str) -> None:
        """Judge all states in another order, in one call if they may share one, and compare.

        Raises:
            ContractViolation: ``broken``, at the first verdict that is another.
        """
        order = self.shuffled()
        verdicts = self.judge_each(verifier, [self.states[n] for n in order], broken)
        self.compare(order, verdicts, broken, how)

    def judge_each(
        self, verifier: Verifier, states: Sequence[State], broken: type[ContractViolation]
    ) -> list[Verdict]:
        """Judge states in one call, or one by one where they may not share one."""
        if self.together:
            return self.judge(verifier, states, broken)
        return [self.judge(verifier, [state], broken)[0] for state in states]

    def compare(
        self,
        numbers: Sequence[int],
        verdicts: Sequence[Verdict],
        broken: type[ContractViolation],
        how: str,
    ) -> None:
        """Compare verdicts with those that the numbered states have alone.

        Raises:
            ContractViolation: ``broken``, at the first that differs.
        """
        if (found := self.difference(numbers, verdicts)) is not None:
            raise broken(f"{how}, {found.what}", shown([self.states[found.number]]))

    def difference(self, numbers: Sequence[int], verdicts: Sequence[Verdict]) -> Difference | None:
        """Return the first verdict that is not the one that its state has alone."""
        for number, verdict in zip(numbers, verdicts, strict=True):
            expected = self.expected[number]
            if not alike(verdict, expected, self.tolerance):
                return Difference(number, f"the verdict is {said(verdict)}, and was {said(expected)}")
        return None

    def shuffled(self) -> list[int]:
        """Return the numbers of the states in another order."""
        return self.random.sample(range(len(self.states)), len(self.states))


def copied(verifier: Verifier) -> Verifier:
    """Return a copy by pickle.

    Raises:
        PickleBroken: if there can be none.
    """
    try:
        copy: Verifier = pickle.loads(pickle.dumps(verifier))
    except Exception as error:
        raise PickleBroken(f"pickling and unpickling raised {error!r}") from error
    return copy


@frozen
class Difference:
    """A verdict on the state of a number that is not the expected one."""

    number: int
    what: str


def alike(a: Verdict, b: Verdict, tolerance: float) -> bool:
    """Whether two verdicts say the same. Reasons are words, and may differ."""
    return (
        a.answer == b.answer
        and _near(a.score, b.score, tolerance)
        and len(a.step_scores or ()) == len(b.step_scores or ())
        and all(
            _near(x, y, tolerance) for x, y in zip(a.step_scores or (), b.step_scores or (), strict=True)
        )
    )


def _near(a: float | None, b: float | None, tolerance: float) -> bool:
    if a is None or b is None:
        return a is b
    return a == b or abs(a - b) <= tolerance


def said(verdict: Verdict) -> str:
    """Return a verdict in few words."""
    parts = [f"score {verdict.score}", f"answer {verdict.answer!r:.60}"]
    if verdict.step_scores is not None:
        parts.append(f"step scores {verdict.step_scores!r:.60}")
    if verdict.reason:
        parts.append(f"reason {verdict.reason!r:.90}")
    return f"({', '.join(parts)})"


def shown(states: Sequence[State]) -> str:
    """Return the first few states in words."""
    lines = [
        f"problem {state.problem.id!r}, gold answer {state.problem.answer!r:.60}, "
        f"{len(state.steps)} steps, the last {(state.steps[-1].text if state.steps else None)!r:.90}"
        for state in states[:3]
    ]
    more = [f"and {len(states) - 3} more"] if len(states) > 3 else []
    return "\n".join(lines + more)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Interrupt the block after so many seconds.

    Only the main thread can be interrupted; in another, time is not limited.

    Raises:
        OutOfTime: in the block, when its time is up.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    with alarm(seconds, OutOfTime):
        yield


@contextmanager
def alarm(seconds: float, error: type[BaseException]) -> Iterator[None]:
    """Raise ``error`` in the block after so many seconds, in the main thread. A timer that was running
    before goes on after."""
    is_over = False

    def interrupt(signum: int, frame: Any) -> None:
        if not is_over:
            raise error

    handler = signal.signal(signal.SIGALRM, interrupt)
    before = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        is_over = True
        signal.setitimer(signal.ITIMER_REAL, *before)
        signal.signal(signal.SIGALRM, handler)
