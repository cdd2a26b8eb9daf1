"""Verdicts that are checked before anything is built on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rftt.interfaces import State, Verdict, Verifier


def check_verdicts(verifier: Verifier, states: Sequence[State]) -> list[Verdict]:
    """Judge states in one call and return one verdict for each, in order.

    Raises:
        TypeError: naming the verifier, if it returned anything but a list of verdicts.
        ValueError: naming the verifier, if it returned too few verdicts or too many.
    """
    verdicts: Any = verifier.judge(states)
    if not isinstance(verdicts, (list, tuple)):
        raise TypeError(
            f"{_call(verifier)} returned {_shown(verdicts)} for {len(states)} states; return a list "
            "with one Verdict for each state, in order"
        )
    for place, verdict in enumerate(verdicts):
        if not isinstance(verdict, Verdict):
            raise TypeError(
                f"{_call(verifier)} returned {_shown(verdict)} as verdict {place} of {len(verdicts)}; "
                f"return {_remedy(verdict)}"
            )
    if len(verdicts) != len(states):
        raise ValueError(
            f"{_call(verifier)} returned {len(verdicts)} verdicts for {len(states)} states; return one "
            "for each, in order, with score=None where it abstains"
        )
    return list(verdicts)


def _call(verifier: Verifier) -> str:
    return f"{type(verifier).__qualname__}.judge"


def _shown(value: object) -> str:
    if value is None:
        return "None"
    text = repr(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{text}, a {type(value).__name__},"


def _remedy(value: object) -> str:
    if value is None:
        return "Verdict(None, reason=...) to abstain"
    if isinstance(value, (bool, int, float)):
        return f"Verdict({float(value)}), a score wrapped in a Verdict"
    return "a Verdict"
