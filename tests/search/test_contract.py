"""Every strategy keeps its promises, and each promise is one that a strategy can break and be caught."""

from __future__ import annotations

import pytest

from rftt import (
    MCTS,
    AdaptiveConsistency,
    BeamSearch,
    BestOfN,
    DiverseTreeSearch,
    FrontierSearch,
    GumbelMCTS,
    ParticleFilter,
    Searcher,
    UncertaintyForking,
)  # fmt: skip
from rftt.search.contract import PROMISES, ContractViolation, check_searcher
from rftt.search.frontier import breadth_first, depth_first
from rftt.search.mcts import Dirichlet
from rftt.search.schedules import Exponential, Widening
from rftt.search.selection import between_siblings, puct
from tests.search import broken

SHIPPED: list[Searcher] = [
    BestOfN(n=3),
    BeamSearch(width=2, branching=2),
    MCTS(),
    MCTS(parallel=3, width=2, discount=0.5),
    MCTS(openers="sampled", width=3),
    MCTS(selection=puct, until="step"),
    MCTS(selection=puct, noise=Dirichlet(), values=between_siblings),
    MCTS(exploration=Exponential(4.0, 0.5, 20), widening=Widening(1.0, 0.5), width=2),
    GumbelMCTS(simulations=12, considered=3, discount=0.9),
    DiverseTreeSearch(subtrees=2, branching=2),
    FrontierSearch(branching=2, at_once=2),
    FrontierSearch(breadth_first, branching=2),
    FrontierSearch(depth_first, branching=2),
    ParticleFilter(particles=3),
    UncertaintyForking(roots=2, at_once=2),
    AdaptiveConsistency(most=5, at_once=2),
]

OPEN_ENDED = {"ends": "the budget ends it"}
GREEDY = {"starvation": "without exploration, an option that looks worse is not tried"}

BROKEN: list[tuple[Searcher, str]] = [
    (broken.CountsTwice(), "visits"),
    (broken.KeepsRolloutsBack(), "visits"),
    (broken.NoNegativeScores(), "values"),
    (broken.IgnoresDiscount(discount=0.5), "discount"),
    (MCTS(selection=broken.bonus_for_visited_only), "starvation"),
    (broken.Overlooks(), "starvation"),
    (broken.AddsNodes(), "budget"),
    (broken.TakesBackRollouts(), "budget"),
    (broken.Relabels(), "structure"),
    (broken.TakesTurns(), "hidden state"),
    (broken.TakesTurnsOfAll(), "hidden state"),
    (broken.OwnChance(), "hidden state"),
    (broken.RemembersProblems(), "hidden state"),
    (broken.ComparesProblems(), "batch"),
    (broken.NumbersAsKeys(), "resume"),
    (broken.SetInMemo(), "resume"),
    (broken.EndsAtOnce(), "grammar"),
    (broken.GrowsLeaves(), "grammar"),
    (broken.BelowClosed(), "finished"),
    (broken.Reopens(), "finished"),
    (broken.Endless(n=1), "ends"),
    (broken.Wakes(n=1), "ends"),
    (broken.NeverBegins(), "answer"),
    (broken.CountsOnAll(), "any reply"),
    (broken.CountsOnScores(), "any reply"),
]


def _name(value: object) -> str:
    return type(value).__name__ if isinstance(value, Searcher) else str(value).replace(" ", "_")


@pytest.mark.parametrize("searcher", SHIPPED, ids=_name)
def test_shipped_strategies_keep_every_promise(searcher: Searcher) -> None:
    check_searcher(searcher, max_examples=12)


@pytest.mark.parametrize(("searcher", "promise"), BROKEN, ids=_name)
def test_a_broken_promise_is_named(searcher: Searcher, promise: str) -> None:
    waived = {} if promise == "ends" else OPEN_ENDED
    with pytest.raises(ContractViolation) as caught:
        check_searcher(searcher, max_examples=20, most_rounds=200, waived=waived)
    assert caught.value.promise == promise
    message = str(caught.value)
    assert message.startswith(f"{promise}: ")
    assert PROMISES[promise] in message
