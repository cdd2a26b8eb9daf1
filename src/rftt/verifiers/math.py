"""The rule for mathematical answers: equal by math-verify, within a hard time limit."""

from __future__ import annotations

import json
import re
import selectors
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from attrs import define, field, frozen

from rftt.interfaces import Solution, Verdict, Verifier
from rftt.problems.problem import BOXED, Problem

_PLAIN: Final = re.compile(r"[+-]?\d{1,30}(\.\d{1,30})?\Z")


def boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{...}`` whose braces balance, ``None`` if there is none."""
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
class Comparison:
    """``is_equal`` is ``None`` when there was no gold answer, or no verdict in time.
    ``canonical`` is the same text for equal answers, as far as sympy can tell."""

    is_equal: bool | None
    canonical: str
    reason: str = ""


@define(eq=False)
class MathVerifier(Verifier):
    """Scores 1 if the boxed answer of the last step equals the problem's, else 0.

    A solution without a boxed answer scores 0. Without a gold answer, or when comparing takes longer
    than ``seconds``, the verifier abstains; it gives the extracted answer all the same.

    Plain numbers are compared exactly, in this process. Everything else goes to math-verify in a
    worker process that is killed when its time is up, so nothing a model writes can hang a run.
    """

    seconds: float = 5.0
    _worker: subprocess.Popen[str] | None = field(default=None, init=False, repr=False)
    _known: dict[tuple[str | None, str], Comparison] = field(factory=dict, init=False, repr=False)

    def judge(self, problem: Problem, solutions: Sequence[Solution]) -> list[Verdict]:
        return [self._verdict(problem, solution) for solution in solutions]

    def _verdict(self, problem: Problem, solution: Solution) -> Verdict:
        answer = boxed(solution.steps[-1].text) if solution.steps else None
        if answer is None:
            score = None if problem.answer is None else 0.0
            return Verdict(score, reason="the last step has no boxed answer")
        comparison = self.compare(problem.answer, answer)
        score = None if comparison.is_equal is None else float(comparison.is_equal)
        return Verdict(score, comparison.canonical, comparison.reason)

    def compare(self, gold: str | None, answer: str) -> Comparison:
        """Whether two answers are equal, and a canonical text of the second."""
        key = (gold, answer)
        if key not in self._known:
            self._known[key] = _compare_plain(gold, answer) or self._ask_worker(gold, answer)
        return self._known[key]

    def _ask_worker(self, gold: str | None, answer: str) -> Comparison:
        if self._worker is None:
            self._worker = _start_worker()
        reply = _exchange(self._worker, {"gold": gold, "answer": answer}, self.seconds)
        if reply is None:
            self.close()
            return Comparison(None, answer, f"no verdict within {self.seconds:g} s")
        return reply

    def close(self) -> None:
        """End the worker process; a later comparison starts a new one."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.communicate()
            self._worker = None

    def __del__(self) -> None:
        self.close()


def _compare_plain(gold: str | None, answer: str) -> Comparison | None:
    """Exact comparison of plain numbers; ``None`` if either is something else."""
    texts = [text.replace(",", "") for text in (answer, gold) if text is not None]
    if not all(_PLAIN.match(text) for text in texts):
        return None
    values = [Fraction(text) for text in texts]
    return Comparison(None if gold is None else values[0] == values[1], str(values[0]))


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
    worker: subprocess.Popen[str], question: dict[str, str | None], seconds: float
) -> Comparison | None:
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
    return Comparison(**json.loads(line)) if line else None
