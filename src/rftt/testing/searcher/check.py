"""One call that holds a search strategy to its promises, and one item for each of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Unpack
from unittest import SkipTest

from attrs import define, frozen

from rftt.search.searcher import Searcher
from rftt.testing.promises import BrokenPromises
from rftt.testing.searcher.bench import Bench
from rftt.testing.searcher.parts import Findings, find_broken
from rftt.testing.searcher.promises import PROMISES
from rftt.testing.searcher.settings import CheckKeywords, CheckSettings


def check_searcher(searcher: Searcher, **settings: Unpack[CheckKeywords]) -> None:
    """Check a search strategy against its promises; return if it keeps them all.

    The strategy is told arbitrary replies, round by round, on two trees at once. Then it searches
    finite problems through the engine, alone and in batches, in rounds and streaming, with every kind of
    budget, stopped and resumed; then with a budget larger than the problem; then a problem without end;
    then known problems in other processes, with another ``PYTHONHASHSEED``. The promises and their
    wording are in :data:`~rftt.testing.searcher.promises.PROMISES`. Write one test for each strategy::

        def test_my_strategy() -> None:
            check_searcher(MyStrategy(width=3))

    or, with :func:`searcher_checks`, one for each promise.

    If the strategy has an attribute ``discount``, scores must be backed up with that factor. A strategy
    whose class cannot be imported, as one that is written in a notebook, is not tried in other
    processes; that is logged as a warning.

    Args:
        searcher: the strategy, with the settings that are to be checked.
        settings: how it is checked, by name: :class:`~rftt.testing.searcher.settings.CheckSettings`
            says what there is. Of most use are ``waived``, ``rewards`` and ``max_examples``.

    Raises:
        ContractViolation: naming the promise that is broken, with the smallest case that was found: what
            was asked and told, round by round, and the tree. If several are, it is a
            :class:`~rftt.testing.promises.BrokenPromises` that lists them.
        TypeError: if ``searcher`` is not a strategy, such as the class in place of an instance, or there
            is no such setting.
        ValueError: if ``waived`` names a promise that does not exist, or ``rewards`` is not a range.
    """
    checks = _Checks.of(searcher, CheckSettings(**settings))
    found = list(checks.findings.broken.values())
    if len(found) == 1 and not checks.findings.untried:
        # The way here says nothing; the cause does, where a strategy raised something.
        raise found[0].with_traceback(None) from found[0].__cause__
    if found:
        raise BrokenPromises(found, checks.findings.untried) from found[0].__cause__


def searcher_checks(
    searcher: Searcher, **settings: Unpack[CheckKeywords]
) -> list[tuple[str, Callable[[], None]]]:
    """Return one check for each promise that is demanded, with its name, to see each in a test of its
    own::

        @pytest.mark.parametrize(("promise", "check"), searcher_checks(MyStrategy(width=3)))
        def test_my_strategy(promise: str, check: Callable[[], None]) -> None:
            check()

    The first check that is called tries all of them, and all share what is found. A check raises what
    :func:`check_searcher` would for its promise alone, and ``unittest.SkipTest``, which pytest takes for
    a skip, where another promise is broken in such a way that this one could not be tried.

    Args:
        searcher: the strategy.
        settings: as in :func:`check_searcher`.

    Raises:
        TypeError, ValueError: as there.
    """
    checks = _Checks.of(searcher, CheckSettings(**settings))
    return [(name, _PromiseCheck(name, checks)) for name in PROMISES if name not in checks.bench.skipped]


@define(eq=False)
class _Checks:
    """A strategy's checks, all run once at the first look at ``findings``."""

    bench: Bench

    @classmethod
    def of(cls, searcher: Searcher, settings: CheckSettings) -> _Checks:
        """Prepare the checks of a strategy."""
        if not isinstance(searcher, Searcher):
            raise TypeError(
                f"searcher: {searcher!r} is not a Searcher; give an instance, such as MCTS()"
            )
        return cls(Bench(searcher, settings))

    @cached_property
    def findings(self) -> Findings:
        """What is broken."""
        with self.bench.limit:
            return find_broken(self.bench)


@frozen(eq=False)
class _PromiseCheck:
    name: str
    checks: _Checks

    def __call__(self) -> None:
        findings = self.checks.findings
        if violation := findings.broken.get(self.name):
            raise violation.with_traceback(None) from violation.__cause__
        if reason := findings.untried.get(self.name):
            raise SkipTest(f"{self.name} was not tried, because {reason}")
