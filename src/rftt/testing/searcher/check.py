"""One call that holds a search strategy to its promises."""

from __future__ import annotations

from collections.abc import Mapping

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from rftt.search.budget import Budget
from rftt.search.searcher import Searcher
from rftt.testing.finite.problem import FiniteProblem
from rftt.testing.finite.strategies import finite_problems
from rftt.testing.searcher.endings import check_best_leaf, check_endings, ladder
from rftt.testing.searcher.machine import AskTell, pristine
from rftt.testing.searcher.promises import PROMISES, ContractViolation, StateBroken
from rftt.testing.searcher.searches import Searches, budgets, check_seconds
from rftt.testing.searcher.starvation import check_starvation

_STEPS = 12


def check_searcher(
    searcher: Searcher,
    *,
    rewards: tuple[float, float] = (-1.0, 1.0),
    waived: Mapping[str, str] | None = None,
    finds_best: bool = False,
    max_examples: int = 50,
    seed: int = 0,
    patience: int = 256,
    max_rounds: int = 1000,
) -> None:
    """Check a search strategy against its promises; return if it keeps them all.

    The strategy is told arbitrary replies, round by round, on two trees at once. Then it searches
    finite problems through the engine, alone and in batches, with every kind of budget, stopped and
    resumed; then with a budget larger than the problem; then a problem without end. The promises and
    their wording are in :data:`~rftt.testing.searcher.promises.PROMISES`. Write one test for each
    strategy::

        def test_my_strategy() -> None:
            check_searcher(MyStrategy(width=3))

    If the strategy has an attribute ``discount``, scores must be backed up with that factor. All of this
    runs in one process: that trees do not depend on ``PYTHONHASHSEED`` is promised, but not tried. A
    call to ``ask`` that never returns hangs this one too: run it with a time limit.

    Args:
        searcher: the strategy, with the settings that are to be checked.
        rewards: the lowest and the highest score that a verifier gives.
        waived: promises that are not demanded, by name, each with the reason why it does not apply; for
            example ``{"ends": "samples until the budget is spent"}``.
        finds_best: whether the strategy is complete, so that it must find the best leaf of every finite
            problem in which forcing functions determines the path.
        max_examples: cases that are tried in each of the parts that draw cases.
        seed: decides which; the same seed tries the same.
        patience: rollouts after which an option that was passed over counts as starved.
        max_rounds: rounds after which a search of a handful of leaves counts as endless.

    Raises:
        ContractViolation: naming the promise that is broken, with the smallest case that was found: what
            was asked and told, round by round, and the tree.
        ValueError: if ``waived`` names a promise that does not exist, or ``rewards`` is not a range.
    """
    skipped = dict(waived or {})
    if unknown := skipped.keys() - PROMISES.keys():
        known = ", ".join(PROMISES)
        raise ValueError(f"waived: there is no promise {min(unknown)!r}; there are: {known}")
    if not rewards[0] < rewards[1]:
        raise ValueError(f"rewards: {rewards} is not a range; give the lowest and a higher score")
    names = frozenset(skipped)

    class Machine(AskTell):
        def __init__(self) -> None:
            super().__init__(searcher, names, rewards)

    some_budgets = budgets(searcher.needs_rollout_limit)

    @given(finite_problems(rewards), some_budgets, st.integers(1, 4), st.integers(0, 3))
    def searches(finite: FiniteProblem, budget: Budget, stop: int, seed: int) -> None:
        Searches(pristine(searcher), names, finite, budget, seed).check(stop)

    @given(finite_problems(rewards, unique=True))
    def optima(finite: FiniteProblem) -> None:
        check_best_leaf(pristine(searcher), names, finite, max_rounds)

    limits = settings(
        max_examples=max_examples, stateful_step_count=_STEPS, deadline=None, database=None,
        report_multiple_bugs=False, verbosity=Verbosity.quiet, print_blob=False,
        phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    seeded = hypothesis.seed(seed)
    try:
        run_state_machine_as_test(seeded(Machine), settings=limits)
        seeded(limits(searches))()
        check_seconds(pristine(searcher), names, ladder(rewards)[-1])
        check_endings(pristine(searcher), names, rewards, max_rounds)
        check_starvation(pristine(searcher), names, rewards, patience)
        if finds_best:
            seeded(limits(optima))()
    except Flaky as error:
        raise _unstable(error) from None
    except ContractViolation as violation:
        # The way here says nothing; the cause does, where a strategy raised something.
        raise violation.with_traceback(None) from violation.__cause__


def _unstable(error: Flaky) -> ContractViolation:
    """Return what to say when a case that failed does not fail again."""
    what = (
        "the same calls on equal trees went another way the second time: the strategy depends on "
        "something that is not on the tree, in rng or in its settings"
    )
    for found in getattr(error, "exceptions", ()):
        if isinstance(found, ContractViolation):
            return StateBroken(f"{what}; the first time, {found.promise}: {found.what}", found.scenario)
    return StateBroken(what)
