"""One call that holds a verifier to its promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Final

from rftt.interfaces import State, Verifier
from rftt.testing.promises import ContractViolation
from rftt.testing.verifier.bench import Bench, Build
from rftt.testing.verifier.cases import ANSWERS, default_states
from rftt.testing.verifier.equality import check_equivalence
from rftt.testing.verifier.hostile import check_aftermath, check_limit
from rftt.testing.verifier.independence import (
    check_company,
    check_memory,
    check_repetition,
    note_expected,
)
from rftt.testing.verifier.promises import VERIFIER_PROMISES
from rftt.testing.verifier.replies import check_any_state, check_replies, check_unchanged
from rftt.testing.verifier.settings import check_fingerprint, check_pickle
from rftt.testing.verifier.sharing import check_forks, check_interrupt, check_threads

_CHECKS: Final[tuple[tuple[tuple[str, ...], Callable[[Bench], None]], ...]] = (
    (("states unchanged",), check_unchanged),
    (("verdicts",), check_replies),
    (("any state",), check_any_state),
    (("repetition",), check_repetition),
    ((), note_expected),
    (("memory",), check_memory),
    (("verdict order", "company"), check_company),
    (("pickle",), check_pickle),
    (("equivalence",), check_equivalence),
    (("fingerprint",), check_fingerprint),
    (("threads",), check_threads),
    (("forks",), check_forks),
    (("interrupt",), check_interrupt),
    (("time limit",), check_limit),
    (("aftermath",), check_aftermath),
)
"""Checks with the promises that each of them tries. Each counts on those before it."""


def check_verifier(
    build: Build | Verifier,
    *,
    states: Sequence[State] | None = None,
    answers: Sequence[str] | None = None,
    waived: Mapping[str, str] | None = None,
    tolerance: float = 0.0,
    seconds: float = 10.0,
    seed: int = 0,
) -> None:
    """Check a verifier against its promises; return if it keeps them all.

    It judges states alone, in one call, in several orders, in threads, in forks, after an interrupt,
    and beside answers that are meant to hang it; each state must have the same verdict everywhere. The
    promises and their wording are in :data:`~rftt.testing.verifier.promises.VERIFIER_PROMISES`. Write
    one test for each verifier::

        def test_my_verifier() -> None:
            check_verifier(MyVerifier)

    It takes some seconds and the time of about 1,000 verdicts. Called from the main thread, it
    interrupts what takes too long; a call to C that never returns to Python hangs this one too. What
    cannot be tried, such as interrupts in another thread, is logged as a warning.

    Args:
        build: makes the verifier, always with equal settings; or the verifier, of which copies by pickle
            are tried. Give a function where making one is the point, as for a class with settings.
        states: complete solutions of the kind that it judges, at least two of them with different
            verdicts; by default, solutions of mathematical problems with boxed answers.
        answers: answers that it compares; by default numbers and expressions.
        waived: promises that are not demanded, by name, each with the reason why it does not apply; for
            example ``{"forks": "the model is on a GPU"}``.
        tolerance: the difference of two scores that counts as none: 0 for rules, some 1e-4 for a model
            whose kernels round otherwise in another batch.
        seconds: most wall time of a call for one state, whatever it says.
        seed: decides the orders; the same seed tries the same.

    Raises:
        ContractViolation: naming the promise that is broken, and what was found.
        ValueError: if ``waived`` names a promise that does not exist, or if the verdicts on all states
            are alike.
    """
    skipped = dict(waived or {})
    if unknown := skipped.keys() - VERIFIER_PROMISES.keys():
        known = ", ".join(VERIFIER_PROMISES)
        raise ValueError(f"waived: there is no promise {min(unknown)!r}; there are: {known}")
    bench = Bench(
        build,
        default_states() if states is None else list(states),
        list(ANSWERS if answers is None else answers),
        seconds,
        tolerance,
        Random(seed),
        copies="pickle" not in skipped,
        together=not skipped.keys() & {"company", "verdict order"},
    )
    if len(bench.states) < 2 or not bench.answers:
        raise ValueError(
            f"there are {len(bench.states)} states and {len(bench.answers)} answers; give at least two "
            "states with different verdicts, and one answer"
        )
    for promises, check in _CHECKS:
        if promises and skipped.keys() >= set(promises):
            continue
        try:
            check(bench)
        except ContractViolation as violation:
            # A waived promise may be tried along with another.
            if violation.promise not in skipped:
                # The way here says nothing; the cause does, where a verifier raised something.
                raise violation.with_traceback(None) from violation.__cause__
