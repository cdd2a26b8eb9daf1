"""Small verifiers that keep every promise, and others that each break one, as their authors might have
meant them."""

from __future__ import annotations

import os
import random
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from attrs import evolve

from rftt import Problem, State, Verdict, Verifier

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


def find(state: State) -> str | None:
    found = _BOXED.findall(state.steps[-1].text) if state.steps else []
    return found[-1].strip() if found else None


class Exact(Verifier):
    """Right: an answer is right if it is the gold answer, word for word."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [self.verdict(state) for state in states]

    def verdict(self, state: State) -> Verdict:
        answer, gold = find(state), state.problem.answer
        if gold is None:
            return Verdict(None, answer, "no gold answer")
        return Verdict(float(answer == gold), answer)


class ScoresSteps(Exact):
    """Right: each step has a score, which depends on its own text."""

    def verdict(self, state: State) -> Verdict:
        scores = tuple(1 / (1 + len(step.text)) for step in state.steps)
        return evolve(super().verdict(state), step_scores=scores or None)


class DropsDuplicates(Exact):
    """One verdict for states that are equal."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return super().judge([s for n, s in enumerate(states) if s not in states[:n]])


class NothingForNothing(Exact):
    """Stacks what it has, and there may be nothing."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        first = super().judge(states[:1])[0]
        return [first, *super().judge(states[1:])]


class TruthValues(Exact):
    """A score that is True."""

    def verdict(self, state: State) -> Verdict:
        verdict = super().verdict(state)
        return verdict if verdict.score is None else evolve(verdict, score=verdict.score == 1.0)


class NoScoreForTheLast(ScoresSteps):
    """Steps are scored but for the one with the answer."""

    def verdict(self, state: State) -> Verdict:
        verdict = super().verdict(state)
        return evolve(verdict, step_scores=(verdict.step_scores or ())[:-1])


class WantsGold(Exact):
    """All problems have a gold answer, or so it thinks."""

    def verdict(self, state: State) -> Verdict:
        gold: Any = state.problem.answer
        return Verdict(float(find(state) == gold.strip()), find(state))


class WantsSteps(Exact):
    """All solutions have a step."""

    def verdict(self, state: State) -> Verdict:
        return evolve(super().verdict(state), reason=state.steps[-1].text[:20])


class WantsTheEnd(Exact):
    """All solutions are finished, it asserts."""

    def verdict(self, state: State) -> Verdict:
        assert not state.steps or (state.steps[-1].terminal and not state.steps[-1].truncated)
        return super().verdict(state)


class Lottery(Exact):
    """A sample of a judge's opinion, with no seed."""

    def verdict(self, state: State) -> Verdict:
        return Verdict(random.random(), find(state))


class CachesById(Exact):
    """Verdicts are remembered by the problem."""

    def __init__(self) -> None:
        self._known: dict[str, Verdict] = {}

    def __fingerprint__(self) -> dict[str, Any]:
        return {}

    def verdict(self, state: State) -> Verdict:
        return self._known.setdefault(state.problem.id, super().verdict(state))


class CachesByPlace(Exact):
    """Verdicts are remembered by the place in the call."""

    def __init__(self) -> None:
        self._known: dict[int, Verdict] = {}

    def __fingerprint__(self) -> dict[str, Any]:
        return {}

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [self._known.setdefault(n, self.verdict(state)) for n, state in enumerate(states)]


class CachesByAnswer(CachesById):
    """Verdicts are remembered by the answer, whatever the gold answer is."""

    def verdict(self, state: State) -> Verdict:
        return self._known.setdefault(find(state) or "", Exact.verdict(self, state))


class ByProblem(Exact):
    """States are sorted by problem, to judge those of one together, and not sorted back."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return super().judge(sorted(states, key=lambda state: state.problem.question))


class Relative(Exact):
    """Scores less the mean of the call."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        verdicts = super().judge(states)
        scores = [v.score for v in verdicts if v.score is not None]
        mean = sum(scores) / max(1, len(scores))
        if len(states) == 1:
            return verdicts
        return [v if v.score is None else evolve(v, score=v.score - mean) for v in verdicts]


class OncePerCall(Exact):
    """Abstains on what it has just seen in the call."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [
            Verdict(None, reason="seen") if state in states[:n] else self.verdict(state)
            for n, state in enumerate(states)
        ]


class TakesNotes(Exact):
    """The verdict is left in the problem."""

    def verdict(self, state: State) -> Verdict:
        verdict, notes = super().verdict(state), state.problem.metadata
        assert isinstance(notes, dict)
        notes["score"] = verdict.score
        return verdict


class EmptiesTheList(Exact):
    """States are taken off the list."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        if not isinstance(states, list):
            return super().judge(states)
        verdicts = []
        while states:
            verdicts.append(self.verdict(states.pop(0)))
        return verdicts


class Contained(Exact):
    """The gold answer somewhere in the answer."""

    def equivalent(self, a: str, b: str) -> bool | None:
        return a.strip() in b


class Numbers(Exact):
    """Answers are numbers, and are compared as such."""

    def equivalent(self, a: str, b: str) -> bool | None:
        return Fraction(a) == Fraction(b)


class NotItself(Exact):
    """Two answers that are no numbers are different."""

    def equivalent(self, a: str, b: str) -> bool | None:
        return a.strip() == b.strip() if a.strip().isdigit() else False


class HoldsALock(Exact):
    """A lock cannot be pickled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __fingerprint__(self) -> dict[str, Any]:
        return {}


class ForgetsSettings(Exact):
    """A copy has the default of a setting."""

    def __init__(self, right: float = 0.5) -> None:
        self.right = right

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def verdict(self, state: State) -> Verdict:
        verdict = super().verdict(state)
        return evolve(verdict, score=verdict.score and self.right)


class CountsInItsSettings(Exact):
    """How often it was called is an attribute as any other."""

    def __init__(self) -> None:
        self.calls = 0

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        self.calls += 1
        return super().judge(states)


class LocalFunction(Exact):
    """A setting that has no name in another process."""

    def __init__(self) -> None:
        self.compare = lambda a, b: a == b

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class SharedScratch(Exact):
    """What is being judged is kept on the verifier while it is judged."""

    def __fingerprint__(self) -> dict[str, Any]:
        return {}

    def verdict(self, state: State) -> Verdict:
        self.current = state
        answer = find(self.current)
        time.sleep(1e-4)
        verdict = super().verdict(self.current)
        return evolve(verdict, answer=answer)


class PipeVerifier(Exact):
    """Right: asks a worker process, in which each line that goes in comes out.

    One caller at a time; a fork and a copy start a worker of their own; a worker whose exchange was
    interrupted is ended.
    """

    def __init__(self) -> None:
        self._worker: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._pid = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def __fingerprint__(self) -> dict[str, Any]:
        return {}

    def verdict(self, state: State) -> Verdict:
        verdict = super().verdict(state)
        self.own()
        with self._lock:
            said = self.ask(f"{verdict.score}")
        return verdict if said == "None" else evolve(verdict, score=float(said))

    def own(self) -> None:
        if self._pid != os.getpid():
            self._pid, self._lock, self._worker = os.getpid(), threading.Lock(), None

    def ask(self, line: str) -> str:
        try:
            said = self.exchange(line)
        except BaseException:
            self.close()
            raise
        return said

    def exchange(self, line: str) -> str:
        if self._worker is None:
            self._worker = subprocess.Popen(
                ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        worker = self._worker
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(f"{line}\n".encode())
        time.sleep(2e-4)
        return worker.stdout.readline().decode().strip()

    def close(self) -> None:
        if self._worker is not None and self._pid == os.getpid():
            self._worker.kill()
            self._worker.communicate()
        self._worker = None

    def __del__(self) -> None:
        self.close()


class SharesItsPipe(PipeVerifier):
    """A fork talks to its parent's worker."""

    def own(self) -> None:
        self._pid = os.getpid()


class KeepsItsLock(PipeVerifier):
    """A fork has a worker of its own, and its parent's lock, which another thread may have held."""

    def own(self) -> None:
        if self._pid != os.getpid():
            self._pid, self._worker = os.getpid(), None


class LeavesReplies(PipeVerifier):
    """A reply that was not waited for is there when the next is expected."""

    def ask(self, line: str) -> str:
        return self.exchange(line)


class Backtracks(Exact):
    """Braces by a pattern that tries every way to match them."""

    def verdict(self, state: State) -> Verdict:
        text = state.steps[-1].text if state.steps else ""
        return evolve(super().verdict(state), reason=str(re.search(r"(\{+)+\}", text) is not None))


class Evaluates(Exact):
    """Answers are evaluated, which is the end of it for a tower of powers."""

    def equivalent(self, a: str, b: str) -> bool | None:
        if a.strip() == b.strip():
            return True
        return self._value(a) == self._value(b)

    def _value(self, text: str) -> object:
        if not re.fullmatch(r"[\d*]+", text) or len(text) > 100:
            return text
        try:
            return eval(text)
        except SyntaxError:
            return text


class Encodes(Exact):
    """Half of a surrogate pair is no text to UTF-8."""

    def verdict(self, state: State) -> Verdict:
        size = len(state.steps[-1].text.encode()) if state.steps else 0
        return evolve(super().verdict(state), reason=f"{size} bytes")


class OneTimeLimit(Exact):
    """What takes long takes the time of those that come after it in the call."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        left, verdicts = 10_000, []
        for state in states:
            left -= len(state.steps[-1].text) if state.steps else 0
            verdicts.append(self.verdict(state) if left > 0 else Verdict(None, reason="out of time"))
        return verdicts


class DiesOfIt(Exact):
    """After a text that is too long there is no verdict on the next."""

    died = False

    def __fingerprint__(self) -> dict[str, Any]:
        return {}

    def verdict(self, state: State) -> Verdict:
        died, self.died = self.died, bool(state.steps) and len(state.steps[-1].text) > 1000
        return Verdict(None, reason="the worker is gone") if died else super().verdict(state)


def solved(number: int, answer: str, gold: str | None) -> State:
    from rftt.testing.verifier.cases import solution

    return solution(Problem(f"p{number}", "?", gold), f"\\boxed{{{answer}}}")
