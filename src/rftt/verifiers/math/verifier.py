"""The verifier of mathematical answers: equal by rule, within a hard time limit."""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Final, Literal

from attrs import define, field, validators

from rftt.fingerprint import fingerprint
from rftt.interfaces import State, Verdict, Verifier
from rftt.verifiers.extraction import Extraction, boxed
from rftt.verifiers.math.exact import compare, read
from rftt.verifiers.math.pool import pool
from rftt.verifiers.math.rules import apply_rules
from rftt.verifiers.math.text import clean
from rftt.verifiers.math.worker import Reply

_log = logging.getLogger(__name__)

_PLAIN: Final = re.compile(r"[+-]?([0-9]{1,30}|[1-9][0-9]{0,2}(,[0-9]{3}){1,10})(\.[0-9]{1,30})?\Z")
"""A plain number; commas only between groups of three digits."""

_CACHE_SIZE: Final = 20_000
_LONGEST: Final = 2_000
"""Most characters of an answer that is compared by more than its text."""

_RULES: Final = 2
"""Counts up when what is equal changes, so that a recorded run is not resumed with other rules."""


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@define(eq=False)
class MathVerifier(Verifier):
    """Score 1 if the answer in the last step is equivalent to the problem's gold answer, else 0.

    A solution without an answer scores 0. Without a gold answer the verifier abstains, and gives the
    extracted answer all the same.

    Numbers, and what is decided by how it is written, are compared in this process. Everything else goes
    to math-verify in worker processes that the kernel ends when their time is up, so nothing a model
    writes can hang a run. The workers are shared by all verifiers of a process; a fork has its own.
    What counts as equal is described in ``docs/math-answers.md``.

    Attributes:
        seconds: most wall time of one comparison.
        extraction: finds the answer in the text of the last step, such as the functions of
            :mod:`rftt.verifiers.extraction`.
        undecided: the score where a comparison fails or takes too long: ``"abstain"`` for none, or
            ``"wrong"`` for 0, so that a policy gains nothing by answers that cannot be compared.
        workers: most worker processes that one call of :meth:`judge` uses at once.

    Raises:
        ValueError: if a limit is not positive, or ``undecided`` is neither of the two.
    """

    seconds: float = field(default=5.0, validator=[validators.gt(0.0), validators.lt(float("inf"))])
    extraction: Extraction = boxed
    undecided: Literal["abstain", "wrong"] = field(
        default="abstain", validator=validators.in_(("abstain", "wrong"))
    )
    workers: int = field(factory=_usable_cores, validator=validators.ge(1))
    _cache: dict[tuple[str, str], Reply] = field(factory=dict, init=False, repr=False)
    _undecided: Iterator[int] = field(factory=lambda: itertools.count(1), init=False, repr=False)

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        answers = [self.extraction(state.steps[-1].text) if state.steps else None for state in states]
        pairs = {
            (state.problem.answer, answer): None
            for state, answer in zip(states, answers, strict=True)
            if answer is not None and state.problem.answer is not None
        }
        replies = self._compare(list(pairs))
        return [
            self._verdict(state, answer, replies) for state, answer in zip(states, answers, strict=True)
        ]

    def _verdict(
        self, state: State, answer: str | None, replies: Mapping[tuple[str, str], Reply]
    ) -> Verdict:
        gold = state.problem.answer
        if answer is None:
            return Verdict(None if gold is None else 0.0, reason="the last step has no answer")
        if gold is None:
            return Verdict(None, answer, "the problem has no gold answer")
        reply = replies[gold, answer]
        if reply.is_equal is None:
            return Verdict(0.0 if self.undecided == "wrong" else None, answer, reply.reason)
        return Verdict(float(reply.is_equal), answer, reply.reason)

    def equivalent(self, a: str, b: str) -> bool | None:
        """Whether two answers are equal, whichever comes first; ``None`` if the comparison fails or
        takes too long, whatever ``undecided`` says."""
        return self._compare([(a, b)])[a, b].is_equal

    def _compare(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Reply]:
        """Return a reply for each of some distinct pairs."""
        replies: dict[tuple[str, str], Reply] = {}
        asked: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for pair in pairs:
            decided = _at_once(*pair) or _question(*pair)
            reply = decided if isinstance(decided, Reply) else self._cache.get(decided)
            if reply is not None:
                replies[pair] = reply
            elif not isinstance(decided, Reply):
                asked.setdefault(decided, []).append(pair)
        if asked:
            for question, reply in zip(
                asked, pool().ask(list(asked), self.seconds, self.workers), strict=True
            ):
                self._remember(question, reply)
                replies.update(dict.fromkeys(asked[question], reply))
        return replies

    def _remember(self, question: tuple[str, str], reply: Reply) -> None:
        if reply.is_lasting:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            self._cache[question] = reply
        if reply.is_equal is None:
            count = next(self._undecided)
            # Only at 1, 10, 100 and so on: a model that writes such answers writes many.
            if str(count).strip("0") == "1":
                _log.warning(
                    "%d answers could not be compared so far; the last are %.60r and %.60r: %s",
                    count, *question, reply.reason,
                )  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.seconds, self.extraction, self.undecided, self.workers)

    def __fingerprint__(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "extraction": fingerprint(self.extraction),
            "undecided": self.undecided,
            "rules": _RULES,
        }


def _at_once(a: str, b: str) -> Reply | None:
    """Compare two answers whose texts are equal, or that are plain numbers."""
    a, b = a.strip(), b.strip()
    if a == b:
        return Reply(True)
    if _PLAIN.match(a) and _PLAIN.match(b):
        return Reply(Fraction(a.replace(",", "")) == Fraction(b.replace(",", "")))
    return None


def _question(a: str, b: str) -> Reply | tuple[str, str]:
    """Compare two answers by how they are written, or return what a worker is to compare."""
    if max(len(a), len(b)) > _LONGEST:
        return Reply(None, f"an answer of {max(len(a), len(b))} characters is too long to be compared")
    pair = apply_rules(clean(a), clean(b))
    is_equal = pair.is_equal
    if is_equal is None:
        first, second = read(pair.a), read(pair.b)
        is_equal = None if first is None or second is None else compare(first, second)
    if is_equal is not None:
        return Reply(is_equal)
    if not pair.a or not pair.b:
        return Reply(False)
    return min(pair.a, pair.b), max(pair.a, pair.b)
