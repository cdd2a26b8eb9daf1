"""Parts of the contract in which hypothesis draws the cases."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from rftt.search.budget import Budget
from rftt.testing.finite.problem import FiniteProblem
from rftt.testing.finite.strategies import finite_problems
from rftt.testing.searcher.bench import AbandonedError, Bench
from rftt.testing.searcher.cases.machine import AskTell
from rftt.testing.searcher.cases.smallest import EnoughError, Smallest
from rftt.testing.searcher.promises import ContractViolation, StateBroken
from rftt.testing.searcher.searches.endings import check_best_leaf
from rftt.testing.searcher.searches.whole import Searches

_STEPS = 12
_SOME = st.integers(1, 12)
_FEW = st.integers(1, 4)


def check_rounds(bench: Bench) -> None:
    """Raise the promise that is broken on two trees with arbitrary replies."""

    smallest = Smallest(bench.settings.max_shrinks)

    class Machine(AskTell):
        def __init__(self) -> None:
            super().__init__(bench, smallest)

    machine = hypothesis.seed(bench.settings.seed)(Machine)
    _run(lambda: run_state_machine_as_test(machine, settings=_limits(bench)), smallest)


def check_searches(bench: Bench) -> None:
    """Raise the promise that is broken in whole searches of made-up finite problems."""

    smallest = Smallest(bench.settings.max_shrinks)

    @given(
        finite_problems(bench.settings.rewards),
        _budgets(bench.needs_rollout_limit),
        st.integers(1, 4),
        st.integers(0, 3),
    )
    def searches(finite: FiniteProblem, budget: Budget, stop: int, seed: int) -> None:
        smallest.begin()
        with suppress(AbandonedError), smallest.watching():
            Searches(bench, finite, budget, seed).check(stop)

    _run(hypothesis.seed(bench.settings.seed)(_limits(bench)(searches)), smallest)


def check_optima(bench: Bench) -> None:
    """Raise the promise that is broken if the best leaf of a made-up finite problem is not found."""

    smallest = Smallest(bench.settings.max_shrinks)

    @given(finite_problems(bench.settings.rewards, unique=True))
    def optima(finite: FiniteProblem) -> None:
        smallest.begin()
        with suppress(AbandonedError), smallest.watching():
            check_best_leaf(bench, finite)

    _run(hypothesis.seed(bench.settings.seed)(_limits(bench)(optima)), smallest)


def _budgets(needs_rollouts: bool) -> st.SearchStrategy[Budget]:
    """Each kind of limit that is counted, alone and together with the others; always with rollouts if
    they are needed."""
    rollouts = _SOME if needs_rollouts else st.none()
    return st.one_of(
        st.builds(Budget, rollouts=_SOME),
        st.builds(Budget, rollouts, nodes=_SOME),
        st.builds(Budget, rollouts, tokens=_SOME),
        st.builds(Budget, rollouts, policy_calls=_FEW),
        st.builds(Budget, rollouts=_SOME, nodes=_SOME, tokens=_SOME, policy_calls=_FEW),
    )


def _limits(bench: Bench) -> settings:
    return settings(
        max_examples=bench.settings.max_examples, stateful_step_count=_STEPS, deadline=None,
        database=None, report_multiple_bugs=False, verbosity=Verbosity.quiet, print_blob=False,
        phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def _run(test: Callable[[], None], smallest: Smallest) -> None:
    try:
        test()
    except (Flaky, EnoughError) as error:
        # To hypothesis, a case that is not tried to its end is flaky.
        if smallest.is_enough and smallest.found is not None:
            raise smallest.found from smallest.found.__cause__
        raise _unstable(error) from None


def _unstable(error: BaseException) -> ContractViolation:
    """Return what to say when a case that failed does not fail again."""
    what = (
        "the same calls on equal trees went another way the second time: the strategy depends on "
        "something that is not on the tree, in rng or in its settings"
    )
    for found in getattr(error, "exceptions", ()):
        if isinstance(found, ContractViolation):
            return StateBroken(f"{what}; the first time, {found.promise}: {found.what}", found.scenario)
    return StateBroken(what)
