"""Promises on texts that no verifier expects: a reply within the limit, and no trace of them after."""

from __future__ import annotations

from typing import Final

from rftt.interfaces import State, Verifier
from rftt.testing.verifier.bench import Bench, OutOfTime, within
from rftt.testing.verifier.cases import HOSTILE, hostile_states
from rftt.testing.verifier.promises import AftermathBroken, LimitBroken
from rftt.testing.verifier.replies import well_formed

_BESIDE: Final = 4
"""Hostile solutions that are judged among states, beside the longest of them."""
_AFTER: Final = 8
"""Hostile solutions before states are judged again."""


def check_limit(bench: Bench) -> None:
    """Check that hostile solutions and answers are replied to in time."""
    verifier = bench.fresh()
    state = next((state for state in bench.states if state.steps), None)
    for hostile in hostile_states(state) if state else []:
        well_formed([hostile], bench.judge(verifier, [hostile], LimitBroken), LimitBroken)
    for text in HOSTILE:
        for a, b in ((text, bench.answers[0]), (text, text)):
            try:
                with within(bench.seconds):
                    verifier.equivalent(a, b)
            except OutOfTime:
                raise LimitBroken(
                    f"equivalent({a!r:.60}, {b!r:.60}): no reply within {bench.seconds:g} s"
                ) from None
            except Exception as error:
                raise LimitBroken(f"equivalent({a!r:.60}, {b!r:.60}) raised {error!r:.200}") from error


def check_aftermath(bench: Bench) -> None:
    """Check that states have their verdicts beside hostile ones, and after them."""
    verifier = bench.fresh()
    state = next((state for state in bench.states if state.steps), None)
    hostile = hostile_states(state) if state else []
    if bench.together:
        _check_beside(bench, verifier, hostile)
    for text in bench.random.sample(hostile, min(_AFTER, len(hostile))):
        bench.judge(verifier, [text], AftermathBroken)
    bench.try_all(verifier, AftermathBroken, "after hostile solutions")


def _check_beside(bench: Bench, verifier: Verifier, hostile: list[State]) -> None:
    """Judge states and some hostile solutions in one call, the longest of these first."""
    numbers = bench.shuffled()
    longest = max(hostile, key=lambda state: len(state.steps[-1].text), default=None)
    some = bench.random.sample(hostile, min(_BESIDE, len(hostile)))
    mixed: list[tuple[int | None, State]] = [(n, bench.states[n]) for n in numbers]
    mixed += [(None, state) for state in some]
    bench.random.shuffle(mixed)
    mixed[:0] = [] if longest is None else [(None, longest)]
    verdicts = bench.judge(verifier, [state for _, state in mixed], AftermathBroken)
    known = [(n, verdict) for (n, _), verdict in zip(mixed, verdicts, strict=True) if n is not None]
    order, found = [n for n, _ in known], [verdict for _, verdict in known]
    how = f"beside {len(mixed) - len(known)} hostile solutions in one call"
    bench.compare(order, found, AftermathBroken, how)
