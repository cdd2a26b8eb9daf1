"""Promises on what a verdict depends on: its own state alone."""

from __future__ import annotations

from collections import Counter
from typing import Final

from rftt.interfaces import Verdict
from rftt.testing.verifier.bench import Bench, alike, said, shown
from rftt.testing.verifier.promises import CompanyBroken, MemoryBroken, OrderBroken, RepetitionBroken

_FIRST: Final = 8
"""States that are judged first by a verifier of their own, where all verdicts are alike."""


def check_repetition(bench: Bench) -> None:
    """Check that a state that is judged again has the same verdict."""
    verifier = bench.fresh()
    for state in bench.states:
        first, second = (bench.judge(verifier, [state], RepetitionBroken)[0] for _ in range(2))
        if not alike(first, second, bench.tolerance):
            raise RepetitionBroken(
                f"judged twice in a row, a state is {said(first)}, then {said(second)}", shown([state])
            )


def note_expected(bench: Bench) -> None:
    """Note the verdict on each state, judged alone, that all others are compared with.

    Raises:
        ValueError: if all are alike, so that no mix-up could be seen.
    """
    verifier = bench.fresh()
    bench.expected = [bench.judge(verifier, [state], MemoryBroken)[0] for state in bench.states]
    if all(alike(verdict, bench.expected[0], bench.tolerance) for verdict in bench.expected):
        for number in range(1, min(_FIRST, len(bench.states))):
            verdicts = bench.judge(bench.fresh(), [bench.states[number]], MemoryBroken)
            bench.compare([number], verdicts, MemoryBroken, "judged first")
        raise ValueError(
            f"states: the verdict on all {len(bench.states)} of them is {said(bench.expected[0])}, so "
            "that verdicts that were mixed up would not be seen; pass states=[...] of the kind that "
            "this verifier judges, with different verdicts"
        )


def check_memory(bench: Bench) -> None:
    """Check that states have the same verdicts where they are judged in another order."""
    numbers = list(range(len(bench.states)))
    for order in (numbers[::-1], bench.shuffled()):
        verifier = bench.fresh()
        verdicts = [bench.judge(verifier, [bench.states[n]], MemoryBroken)[0] for n in order]
        bench.compare(order, verdicts, MemoryBroken, "judged one by one in another order")


def check_company(bench: Bench) -> None:
    """Check that states have the same verdicts in one call as alone, in any order."""
    verifier, numbers = bench.fresh(), list(range(len(bench.states)))
    twice = bench.shuffled() + bench.shuffled()
    for order in (numbers, numbers[::-1], bench.shuffled(), numbers[:2], twice):
        verdicts = bench.judge(verifier, [bench.states[n] for n in order], CompanyBroken)
        found = bench.difference(order, verdicts)
        if found is not None and _moved(verdicts, [bench.expected[n] for n in order]):
            raise OrderBroken(
                f"{len(order)} states in one call have the verdicts that they have alone, in another "
                f"order: {found.what}",
                shown([bench.states[found.number]]),
            )
        bench.compare(order, verdicts, CompanyBroken, f"among {len(order)} states in one call")


def _moved(verdicts: list[Verdict], expected: list[Verdict]) -> bool:
    """Whether these are the same verdicts in another order, scores to four digits."""
    keys, others = [*map(_key, verdicts)], [*map(_key, expected)]
    return keys != others and Counter(keys) == Counter(others)


def _key(verdict: Verdict) -> tuple[object, ...]:
    return (None if verdict.score is None else round(verdict.score, 4), verdict.answer)
