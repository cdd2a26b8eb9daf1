"""One call that holds a strategy to everything that always holds."""

from __future__ import annotations

from collections.abc import Mapping

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from rftt.finite.problem import FiniteProblem
from rftt.finite.strategies import finite_problems
from rftt.search.budget import Budget
from rftt.search.contract.endings import hold_best_leaf, hold_endings, ladder
from rftt.search.contract.machine import AskTell, pristine
from rftt.search.contract.promises import PROMISES, ContractViolation, StateBroken
from rftt.search.contract.searches import Searches, budgets, hold_seconds
from rftt.search.contract.starvation import hold_no_starvation
from rftt.search.searcher import Searcher

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
    most_rounds: int = 1000,
) -> None:
    """Hold a strategy to its promises; returns if it keeps them all.

    The strategy is told arbitrary replies, round by round, on two trees at once; then it searches finite
    problems through the engine, alone and in batches, with every kind of budget, stopped and resumed;
    then without a budget; then a world without end. The promises and their wording are in
    :data:`~rftt.search.contract.promises.PROMISES`. Write one test for each strategy::

        def test_my_strategy() -> None:
            check_searcher(MyStrategy(width=3))

    If the strategy has an attribute ``discount``, scores must be backed up with that factor. A call to
    ``ask`` that never returns hangs this one too: run it with a time limit.

    Args:
        searcher: the strategy, with the settings that are to be checked.
        rewards: the lowest and the highest score a verifier gives it.
        waived: promises that are not demanded, by name, each with the reason why it does not apply; for
            example ``{"ends": "samples until the budget is spent"}``.
        finds_best: whether the strategy is complete, so that it must find the best leaf of every finite
            problem in which forcing functions determines the path.
        max_examples: cases that are tried in each of the parts that draw cases.
        seed: decides which; the same seed tries the same.
        patience: samples after which an option that was passed over counts as starved.
        most_rounds: rounds after which a search of a handful of leaves counts as endless.

    Raises:
        ContractViolation: naming the promise that is broken, with the smallest case that was found: what
            was asked and told, round by round, and the tree.
        ValueError: if ``waived`` names a promise that there is not, or ``rewards`` is not a range.
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

    @given(finite_problems(rewards), budgets, st.integers(1, 4), st.integers(0, 3))
    def searches(finite: FiniteProblem, budget: Budget, stop: int, seed: int) -> None:
        Searches(pristine(searcher), names, finite, budget, seed).hold(stop)

    @given(finite_problems(rewards, unique=True))
    def optima(finite: FiniteProblem) -> None:
        hold_best_leaf(pristine(searcher), names, finite, most_rounds)

    limits = settings(
        max_examples=max_examples, stateful_step_count=_STEPS, deadline=None, database=None,
        report_multiple_bugs=False, verbosity=Verbosity.quiet, print_blob=False,
        phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    seeded = hypothesis.seed(seed)
    try:
        run_state_machine_as_test(seeded(Machine), settings=limits)
        seeded(limits(searches))()
        hold_seconds(pristine(searcher), names, ladder(rewards)[-1])
        hold_endings(pristine(searcher), names, rewards, most_rounds)
        hold_no_starvation(pristine(searcher), names, rewards, patience)
        if finds_best:
            seeded(limits(optima))()
    except Flaky as error:
        raise _unstable(error) from None
    except ContractViolation as violation:
        # The way here says nothing; the cause does, where a strategy raised something.
        raise violation.with_traceback(None) from violation.__cause__


def _unstable(error: Flaky) -> ContractViolation:
    """What to say when a case that failed does not fail again."""
    what = (
        "the same calls on equal trees went another way the second time: the strategy depends on "
        "something that is not on the tree, in rng or in its settings"
    )
    for found in getattr(error, "exceptions", ()):
        if isinstance(found, ContractViolation):
            return StateBroken(f"{what}; the first time, {found.promise}: {found.what}", found.scenario)
    return StateBroken(what)
