"""Promises on single replies: what a verdict is, what is judged, that nothing is written to."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from rftt.interfaces import State, Verdict
from rftt.testing.promises import ContractViolation
from rftt.testing.verifier.bench import Bench, OutOfTime, said, shown, within
from rftt.testing.verifier.cases import unusual
from rftt.testing.verifier.promises import AnyStateBroken, UnchangedBroken, VerdictsBroken


def check_replies(bench: Bench) -> None:
    """Check that there is one well-formed verdict for each state, however many there are."""
    verifier = bench.original()
    for states in ([], bench.states[:1], bench.states, bench.states * 2):
        well_formed(states, bench.judge(verifier, states, VerdictsBroken), VerdictsBroken)
    well_formed(bench.states, bench.judge(verifier, tuple(bench.states), VerdictsBroken), VerdictsBroken)


def check_any_state(bench: Bench) -> None:
    """Check that unusual states are judged, alone and together."""
    verifier, states = bench.original(), unusual(bench.states)
    for state in states:
        well_formed([state], bench.judge(verifier, [state], AnyStateBroken), AnyStateBroken)
    well_formed(states, bench.judge(verifier, states, AnyStateBroken), AnyStateBroken)


def check_unchanged(bench: Bench) -> None:
    """Check that neither states nor their list are written to."""
    verifier, states = bench.original(), list(bench.states)
    before = copy.deepcopy(states)
    # What it raises is another promise's matter.
    with suppress(Exception, OutOfTime), within(bench.seconds * len(states)):
        verifier.judge(states)
    if len(states) != len(before):
        raise UnchangedBroken(f"the list of {len(before)} states has {len(states)} after the call")
    for number, (state, was) in enumerate(zip(states, before, strict=True)):
        if state is not bench.states[number] or state != was:
            raise UnchangedBroken(f"state {number} is another after the call", shown([was, state]))


def well_formed(
    states: Sequence[State], verdicts: Sequence[Verdict], broken: type[ContractViolation]
) -> None:
    """Check what each verdict is made of; their number is right.

    Raises:
        ContractViolation: ``broken``, naming what is wrong.
    """
    for state, verdict in zip(states, verdicts, strict=True):
        # A class may promise one thing and hold another.
        score: Any = verdict.score
        answer: Any = verdict.answer
        steps: Any = verdict.step_scores
        numbers = [*([] if score is None else [score]), *(steps or ())]
        wrong = [n for n in numbers if type(n) not in (float, int) or not math.isfinite(n)]
        if wrong:
            what = f"a score is {wrong[0]!r}, a {type(wrong[0]).__name__}; give a finite float or None"
        elif answer is not None and type(answer) is not str:
            what = f"the answer is {answer!r:.60}, a {type(answer).__name__}; give a text or None"
        elif steps is not None and len(steps) != len(state.steps):
            what = f"there are {len(steps)} step scores for {len(state.steps)} steps; give one for each"
        else:
            continue
        raise broken(f"{what}: {said(verdict)}", shown([state]))
