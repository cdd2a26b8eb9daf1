"""Every strategy keeps its promises, and each promise is one that a strategy can break and be caught."""

from __future__ import annotations

import pytest
from hypothesis import given

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
    SearchTree,
    UncertaintyForking,
)  # fmt: skip
from rftt.search.contract import PROMISES, ContractViolation, check_searcher, trees
from rftt.search.contract.faults import tree_faults
from rftt.search.contract.scenario import difference, reloaded
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
    (broken.ForgetsItsStart(n=2), "commitment"),
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
    beside = "p1 round 0: " in caught.value.scenario
    assert beside == (promise == "batch"), "the other tree is shown where it matters"


def test_a_broken_promise_is_told_by_a_small_case() -> None:
    with pytest.raises(ContractViolation) as caught:
        check_searcher(broken.CountsTwice(), max_examples=20)
    assert caught.value.scenario == (
        "round 0: asked 1 x node 0, <a>, until answer\n"
        "  told node 0 got 1 scored -1\n"
        "tree 'p0', at most 1 steps deep:\n"
        "  0 question, visits 2, total -1 of 1, closed\n"
        "    1 <a> '', visits 2, ended 2, total -1 of 1, score -1, closed"
    )


def test_an_error_in_the_strategy_is_the_cause() -> None:
    with pytest.raises(ContractViolation, match="tell raised TypeError") as caught:
        check_searcher(broken.CountsOnScores(), max_examples=20)
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize(
    ("searcher", "reasons"),
    [(broken.Endless(n=1), OPEN_ENDED), (MCTS(selection=puct, exploration=0.0), GREEDY)],
    ids=_name,
)
def test_a_promise_can_be_waived_with_a_reason(searcher: Searcher, reasons: dict[str, str]) -> None:
    (promise,) = reasons
    with pytest.raises(ContractViolation) as caught:
        check_searcher(searcher, max_examples=5, most_rounds=200)
    assert caught.value.promise == promise
    check_searcher(searcher, max_examples=5, most_rounds=200, waived=reasons)


def test_a_complete_strategy_finds_the_best_leaf_and_another_does_not() -> None:
    check_searcher(MCTS(parallel=2), max_examples=15, finds_best=True)
    with pytest.raises(ContractViolation, match="the search found None") as caught:
        check_searcher(BestOfN(n=1), max_examples=15, finds_best=True)
    assert caught.value.promise == "best leaf"


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no promise 'visit'; there are: structure, "):
        check_searcher(BestOfN(), waived={"visit": "a slip"})
    with pytest.raises(ValueError, match="is not a range"):
        check_searcher(BestOfN(), rewards=(1.0, 1.0))


@given(trees())
def test_trees_that_are_made_up_could_have_been_searched(tree: SearchTree) -> None:
    assert list(tree_faults(tree)) == []
    assert difference(tree, reloaded(tree)) is None
