"""The parts of the contract, run in order, until all that is broken is found."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from attrs import define, field

from rftt.testing.searcher.bench import AbandonedError, Bench
from rftt.testing.searcher.calls.forwarding import CostlyError
from rftt.testing.searcher.cases.run import check_optima, check_rounds, check_searches
from rftt.testing.searcher.promises import PROMISES, ContractViolation
from rftt.testing.searcher.searches.closing import check_closing
from rftt.testing.searcher.searches.endings import check_endings, check_plans
from rftt.testing.searcher.searches.processes import check_processes
from rftt.testing.searcher.searches.starvation import check_starvation
from rftt.testing.searcher.searches.whole import check_seconds

_log = logging.getLogger(__name__)

_PARTS: Final[tuple[Callable[[Bench], None], ...]] = (
    check_rounds,
    check_searches,
    check_seconds,
    check_endings,
    check_plans,
    check_closing,
    check_starvation,
    check_processes,
)
_FOLLOWS: Final = {
    "hidden state": ("same seed", "batch", "resume", "gold answer"),
    "same seed": ("batch", "resume", "gold answer"),
    # The best answer is looked for where completions ended.
    "visits": ("answer",),
}
"""Promises that cannot be told apart from another once that is broken: they follow from it."""
_ENDS_ALL: Final = ("budget", "structure")
"""Promises without which no search can be trusted, not even to end: the engine goes by what is on the
tree."""


@define(eq=False)
class Findings:
    """What the contract finds.

    Attributes:
        broken: the promises that are broken, by name, the first found first.
        untried: promises that could not be tried, each with the reason.
    """

    broken: dict[str, ContractViolation] = field(factory=dict)
    untried: dict[str, str] = field(factory=dict)


def find_broken(bench: Bench) -> Findings:
    """Run all parts. A promise that is found to be broken is not demanded any more, and its part is run
    again, so that what else is broken is found too.

    Args:
        bench: the strategy. What is found is added to ``skipped``.
    """
    with _quiet():
        return _find(bench)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the engine and shipped strategies log of made-up searches to themselves."""
    logger = logging.getLogger("rftt.search")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _find(bench: Bench) -> Findings:
    findings = Findings()
    for part in (*_PARTS, *([check_optima] if bench.settings.finds_best else [])):
        try:
            while violation := _run(part, bench, findings):
                _note(bench, findings, violation)
                if violation.promise in _ENDS_ALL:
                    reason = f"{violation.promise} is broken, and the engine goes by what is on the tree"
                    return _end(bench, findings, reason)
        except CostlyError as costly:
            _note(bench, findings, costly.violation)
            reason = f"{costly.violation.promise} is broken in a way that takes long"
            return _end(bench, findings, reason)
    return findings


def _end(bench: Bench, findings: Findings, reason: str) -> Findings:
    findings.untried |= {name: reason for name in PROMISES if name not in bench.skipped}
    return findings


def _run(part: Callable[[Bench], None], bench: Bench, findings: Findings) -> ContractViolation | None:
    """Return what a part finds; nothing if it has been found before."""
    try:
        part(bench)
    except AbandonedError:
        return None
    except ContractViolation as violation:
        return None if violation.promise in bench.skipped else violation
    except Exception:
        if not findings.broken:
            raise
        # What is broken already may lead to anything.
        _log.warning("%s could not be tried to its end", part.__name__, exc_info=True)
    return None


def _note(bench: Bench, findings: Findings, violation: ContractViolation) -> None:
    name = violation.promise
    findings.broken[name] = violation
    bench.skipped.add(name)
    for other in _FOLLOWS.get(name, ()):
        if other not in bench.skipped:
            bench.skipped.add(other)
            findings.untried[other] = f"{name} is broken, from which the others follow"
