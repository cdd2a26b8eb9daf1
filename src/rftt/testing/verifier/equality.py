"""The promise on which answers are equivalent."""

from __future__ import annotations

from typing import Any

from rftt.interfaces import Verifier
from rftt.testing.verifier.bench import Bench, OutOfTime, within
from rftt.testing.verifier.promises import EquivalenceBroken


def check_equivalence(bench: Bench) -> None:
    """Check that equivalence is reflexive, symmetric, repeatable, and independent of what was judged."""
    verifier, answers = bench.fresh(), bench.answers
    known: dict[tuple[str, str], bool | None] = {}
    for a in answers:
        for b in answers:
            found = known[a, b] = _equivalent(verifier, bench.seconds, a, b)
            if a == b and found is False:
                raise EquivalenceBroken(f"{a!r} is different from itself")
            if known.get((b, a), found) is not found:
                raise EquivalenceBroken(
                    f"({b!r}, {a!r}) is {known[b, a]}, and ({a!r}, {b!r}) is {found}"
                )
    other = bench.fresh()
    bench.judge(other, bench.states, EquivalenceBroken)
    for a, b in bench.random.sample(sorted(known), len(known)):
        if (found := _equivalent(other, bench.seconds, a, b)) is not known[a, b]:
            raise EquivalenceBroken(
                f"({a!r}, {b!r}) is {known[a, b]}, and {found} after other calls, in another order"
            )
    bench.try_all(other, EquivalenceBroken, "after answers were compared")


def _equivalent(verifier: Verifier, seconds: float, a: str, b: str) -> bool | None:
    try:
        with within(seconds):
            found: Any = verifier.equivalent(a, b)
    except OutOfTime:
        raise EquivalenceBroken(f"equivalent({a!r}, {b!r}): no reply within {seconds:g} s") from None
    except Exception as error:
        raise EquivalenceBroken(f"equivalent({a!r}, {b!r}) raised {error!r}") from error
    if not (found is None or found is True or found is False):
        raise EquivalenceBroken(
            f"equivalent({a!r}, {b!r}) is {found!r:.60}, a {type(found).__name__}; return True, False "
            "or None"
        )
    return found
