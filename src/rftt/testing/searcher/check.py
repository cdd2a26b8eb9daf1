"""One call that holds a search strategy to its promises, and one item for each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TypedDict, Unpack
from unittest import SkipTest

from attrs import define, frozen

from rftt.search.searcher import Searcher
from rftt.testing.promises import BrokenPromises
from rftt.testing.searcher.bench import Bench
from rftt.testing.searcher.calls.time_limit import TimeLimit
from rftt.testing.searcher.parts import Findings, find_broken
from rftt.testing.searcher.promises import PROMISES, BestLeafBroken


class CheckSettings(TypedDict, total=False):
    """The settings of :func:`check_searcher`, by name."""

    rewards: tuple[float, float]
    waived: Mapping[str, str] | None
    finds_best: bool
    max_examples: int
    max_shrinks: int
    seed: int
    patience: int
    max_rounds: int
    seconds: float


def check_searcher(
    searcher: Searcher,
    *,
    rewards: tuple[float, float] = (-1.0, 1.0),
    waived: Mapping[str, str] | None = None,
    finds_best: bool = False,
    max_examples: int = 50,
    max_shrinks: int = 150,
    seed: int = 0,
    patience: int = 256,
    max_rounds: int = 1000,
    seconds: float = 10.0,
) -> None:
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
        rewards: the lowest and the highest score that a verifier gives.
        waived: promises that are not demanded, by name, each with the reason why it does not apply; for
            example ``{"ends": "samples until the budget is spent"}``.
        finds_best: whether the strategy is complete, so that it must find the best leaf of every finite
            problem in which forcing functions determines the path.
        max_examples: cases that are tried in each of the parts that draw cases.
        max_shrinks: cases that are then tried to find a smaller one that breaks the same promise.
        seed: decides which; the same seed tries the same.
        patience: rollouts after which an option that was passed over counts as starved.
        max_rounds: rounds after which a search of a handful of leaves counts as endless.
        seconds: most wall time of a call to the strategy, in any thread. ``math.inf`` is no limit, for a
            debugger. A call that waits in C code, outside the main thread, can only be logged.

    Raises:
        ContractViolation: naming the promise that is broken, with the smallest case that was found: what
            was asked and told, round by round, and the tree. If several are, it is a
            :class:`~rftt.testing.promises.BrokenPromises` that lists them.
        TypeError: if ``searcher`` is not a strategy, such as the class in place of an instance.
        ValueError: if ``waived`` names a promise that does not exist, or ``rewards`` is not a range.
    """
    checks = _checks(
        searcher, rewards=rewards, waived=waived, finds_best=finds_best, max_examples=max_examples,
        max_shrinks=max_shrinks, seed=seed, patience=patience, max_rounds=max_rounds, seconds=seconds,
    )  # fmt: skip
    found = list(checks.findings.broken.values())
    if len(found) == 1 and not checks.findings.untried:
        # The way here says nothing; the cause does, where a strategy raised something.
        raise found[0].with_traceback(None) from found[0].__cause__
    if found:
        raise BrokenPromises(found, checks.findings.untried) from found[0].__cause__


def searcher_checks(
    searcher: Searcher, **settings: Unpack[CheckSettings]
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
    checks = _checks(searcher, **settings)
    return [(name, _PromiseCheck(name, checks)) for name in PROMISES if name not in checks.bench.skipped]


@define(eq=False)
class _Checks:
    """A strategy's checks, all run once at the first look at ``findings``."""

    bench: Bench
    finds_best: bool

    @cached_property
    def findings(self) -> Findings:
        """What is broken."""
        with self.bench.limit:
            return find_broken(self.bench, self.finds_best)


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


def _checks(
    searcher: Searcher,
    *,
    rewards: tuple[float, float] = (-1.0, 1.0),
    waived: Mapping[str, str] | None = None,
    finds_best: bool = False,
    max_examples: int = 50,
    max_shrinks: int = 150,
    seed: int = 0,
    patience: int = 256,
    max_rounds: int = 1000,
    seconds: float = 10.0,
) -> _Checks:
    skipped = set(waived or {})
    if not isinstance(searcher, Searcher):
        raise TypeError(f"searcher: {searcher!r} is not a Searcher; give an instance, such as MCTS()")
    if unknown := skipped - PROMISES.keys():
        known = ", ".join(PROMISES)
        raise ValueError(f"waived: there is no promise {min(unknown)!r}; there are: {known}")
    if not rewards[0] < rewards[1]:
        raise ValueError(f"rewards: {rewards} is not a range; give the lowest and a higher score")
    if not seconds > 0:
        raise ValueError(f"seconds: {seconds} is no time; give the most wall time of a call, as 10.0")
    if not finds_best:
        skipped.add(BestLeafBroken.promise)
    bench = Bench(
        searcher, skipped, TimeLimit(seconds), rewards=rewards, max_examples=max_examples,
        max_shrinks=max_shrinks, seed=seed, patience=patience, max_rounds=max_rounds,
    )  # fmt: skip
    return _Checks(bench, finds_best)
