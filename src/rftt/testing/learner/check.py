"""One call that holds a learner to its promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from rftt.search.budget import Budget
from rftt.search.searcher import Searcher
from rftt.search.strategies import BestOfN
from rftt.testing.finite.gradient import Reward, outcome
from rftt.testing.finite.problem import FiniteProblem
from rftt.testing.learner.direction import check_direction, early_ends, two_steps
from rftt.testing.learner.paths import (
    check_learns,
    check_masks,
    check_no_failures,
    check_ratio,
    check_repeatable,
    check_sequences,
)
from rftt.testing.learner.processes import check_processes
from rftt.testing.learner.promises import LEARNER_PROMISES
from rftt.testing.learner.robust import (
    check_equal_rewards,
    check_modules,
    check_non_finite,
    check_nothing,
    check_state,
)
from rftt.testing.learner.splits import check_micro_batches, check_order, check_packing, check_padding
from rftt.testing.learner.workbench import Build, Workbench
from rftt.testing.promises import ContractViolation

_CHECKS: Final[dict[str, Callable[[Workbench], None]]] = {
    "learns": check_learns,
    "repeatable": check_repeatable,
    "plain sequence": check_sequences,
    "padding": check_padding,
    "masked places": check_masks,
    "packing": check_packing,
    "order": check_order,
    "micro-batches": check_micro_batches,
    "ratio": check_ratio,
    "equal rewards": check_equal_rewards,
    "not failures": check_no_failures,
    "nothing to learn": check_nothing,
    "non-finite": check_non_finite,
    "state": check_state,
    "modules": check_modules,
}
"""Checks by promise. Each counts on those before it."""


def check_learner(
    build: Build,
    *,
    waived: Mapping[str, str] | None = None,
    searchers: Sequence[Searcher] | None = None,
    problems: Mapping[str, FiniteProblem] | None = None,
    budget: Budget | None = None,
    reward: Reward = outcome,
    seed: int = 0,
    processes: int = 1,
) -> None:
    """Check a learner against its promises; return if it keeps them all.

    The learner is given trees of a small problem: of best-of-n, and of MCTS with functions that are
    sampled and that are forced, with steps of several ids and results of tools, at a temperature that is
    not 1, with a model that is the policy and one that is not. Then its gradient is compared with the
    exact policy gradient. The promises and their wording are in
    :data:`~rftt.testing.learner.promises.LEARNER_PROMISES`. Write one test for each learner::

        def test_my_learner() -> None:
            check_learner(lambda policy, reference: MyLearner(policy, reference))

    It takes some seconds, and is the same each time.

    Args:
        build: makes the learner, for the policy that samples and a frozen reference model. It is called
            for each promise anew.
        waived: promises that are not demanded, by name, each with the reason why it does not apply; for
            example ``{"policy gradient": "imitates solved paths, and follows no reward"}``.
        searchers: grow the trees whose gradient must point along the policy gradient; best-of-n by
            default. Name those for which the learner's credit claims it.
        problems: on which it must; by default :func:`~rftt.testing.learner.direction.two_steps` and
            :func:`~rftt.testing.learner.direction.early_ends`.
        budget: of each of these trees; 16 rollouts by default.
        reward: what the learner raises, given a verdict; by default its score.
        seed: decides the trees; the same seed tries the same.
        processes: how many share a batch. Above 1, other processes are started, which takes some seconds
            more, and ``build`` must be a function that can be imported.

    Raises:
        ContractViolation: naming the promise that is broken, and what was found.
        ValueError: if ``waived`` names a promise that does not exist.
    """
    skipped = dict(waived or {})
    if unknown := skipped.keys() - LEARNER_PROMISES.keys():
        known = ", ".join(LEARNER_PROMISES)
        raise ValueError(f"waived: there is no promise {min(unknown)!r}; there are: {known}")
    bench = Workbench(build, seed)
    try:
        for promise, check in _CHECKS.items():
            if promise not in skipped:
                check(bench)
        if "policy gradient" not in skipped:
            check_direction(
                build,
                problems or {"two steps": two_steps(), "early ends": early_ends()},
                searchers or [BestOfN()],
                budget or Budget(rollouts=16),
                reward,
                seed,
            )
        if processes > 1 and "processes" not in skipped:
            check_processes(bench, processes)
    except ContractViolation as violation:
        # The way here says nothing; the cause does, where a learner raised something.
        raise violation.with_traceback(None) from violation.__cause__
