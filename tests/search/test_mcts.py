"""UCT by hand, order of trial, and the optimum of finite problems."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftt import (
    MCTS,
    Budget,
    Grammar,
    MathVerifier,
    Problem,
    SearchConfig,
    Searcher,
    SearchTree,
    Step,
    run_search,
)
from rftt.search.answers.voting import best
from rftt.search.strategies import GumbelMCTS
from rftt.search.strategies.mcts import Dirichlet
from rftt.search.strategies.schedules import Exponential, Linear, Widening
from rftt.search.strategies.selection import puct, qtransform_by_parent_and_siblings, uct
from rftt.testing import check_searcher, finite_problems
from rftt.testing.finite.problem import FiniteProblem
from rftt.testing.finite.tabular import Reply, TabularPolicy
from tests.strategies import policies, problems


@pytest.mark.parametrize(
    ("value", "visits", "parent", "c", "expected"),
    [
        # sqrt(ln 10 / 2) = sqrt(1.151292546497023) = 1.0729830131446736
        (0.5, 2, 10, 2.0, 0.5 + 2 * 1.0729830131446736),
        # ln 1 = 0: a single visit of the parent adds nothing
        (0.25, 1, 1, 2.0, 0.25),
        # sqrt(ln 100 / 50) = sqrt(0.09210340371976183) = 0.30348542587702926
        (1.0, 50, 100, 1.0, 1.30348542587702926),
        (0.7, 3, 9, 0.0, 0.7),
    ],
)
def test_uct_score(value: float, visits: int, parent: int, c: float, expected: float) -> None:
    assert uct([value], [visits], parent, [1.0], c) == [pytest.approx(expected, abs=1e-12)]


def test_an_unvisited_child_is_never_starved() -> None:
    assert uct([0.0], [0], 10_000, [1.0], 0.01) == [math.inf]


def _leaves(policy: TabularPolicy) -> int:
    return sum(
        (*path, reply.text) not in policy.table
        for path, replies in policy.table.items()
        for reply in replies
    )


def _has_right_leaf(policy: TabularPolicy) -> bool:
    return any("{1}" in reply.text for replies in policy.table.values() for reply in replies)


@given(policies(unique=True), st.sampled_from([0.0, 1.0, 1e6]), st.integers(1, 3))
def test_a_budget_that_exhausts_the_tree_finds_the_best_leaf_and_ends(
    policy: TabularPolicy, exploration: float, simulations: int
) -> None:
    searcher = MCTS(exploration=exploration, simulations_per_round=simulations)
    (tree,) = run_search(
        problems(),
        searcher,
        policy,
        MathVerifier(),
        SearchConfig(Budget(rollouts=1000), max_depth=6),
    )
    assert tree.rollouts == _leaves(policy), "each leaf once: a finished subtree is not searched again"
    assert (best(tree) == "1") == _has_right_leaf(policy)


COMPLETE = [
    MCTS(),
    MCTS(discount=0.5, width=2),
    MCTS(until="step"),
    MCTS(selection=puct),
    MCTS(exploration=Linear(2.0, 0.0, 10), simulations_per_round=2),
    MCTS(exploration=Exponential(2.0, 0.1, 10), qtransform=qtransform_by_parent_and_siblings),
    MCTS(widening=Widening(1.0, 0.5)),
    MCTS(selection=puct, noise=Dirichlet()),
    GumbelMCTS(),
    GumbelMCTS(max_num_considered_actions=2, discount=0.9),
]


@settings(max_examples=20)
@given(finite_problems(unique=True))
def test_every_variant_finds_the_best_leaf(finite: FiniteProblem) -> None:
    for searcher in COMPLETE:
        config = SearchConfig(Budget(rollouts=1000), max_depth=finite.depth)
        (tree,) = run_search(finite.problems(), searcher, finite.policy, finite.verifier, config)
        scores = [verdict.score for verdict in tree.verdict if verdict and verdict.score is not None]
        assert max(scores, default=None) == finite.best_score, searcher


@pytest.mark.slow
@pytest.mark.parametrize("searcher", COMPLETE, ids=lambda searcher: type(searcher).__name__)
def test_every_variant_keeps_every_promise_and_finds_the_best_leaf(searcher: Searcher) -> None:
    check_searcher(searcher, finds_best=True, max_examples=10)


def test_functions_are_tried_in_order_of_the_prior() -> None:
    replies = [
        Reply("clarify", "c", 0.1), Reply("analysis", "a", 0.2), Reply("subquestion", "s", 0.3),
        Reply("next_step", "n", 0.4),
    ]  # fmt: skip
    policy = TabularPolicy(Grammar.default(), {(): replies})
    (tree,) = run_search(
        [Problem("p", "?", "1")], MCTS(), policy, MathVerifier(), SearchConfig(Budget(rollouts=10))
    )
    assert [tree.text(node) for node in tree.children[0]] == ["n", "s", "a", "c"]
    assert tree.rollouts == 4, "a finished tree is not searched again"


@pytest.mark.parametrize("c", [0.0, 1e6])
def test_exploration_runs_from_greedy_to_uniform(c: float) -> None:
    tree = SearchTree(Problem("p", "?", "1"), Grammar.default())
    scores = {}
    for name, score in (("poor", 0.1), ("good", 0.9), ("fair", 0.5)):
        node = tree.attach(0, Step("next_step", name, (1,), (0.0,), (True,), terminal=False))
        tree.backup(node, score)
        scores[node] = score
    searcher = MCTS(expansion="sample", width=3, exploration=c)
    for _ in range(60):
        (expansion,) = searcher.ask(tree, Random(0))
        tree.backup(expansion.node, scores[expansion.node])
    visits = [tree.visits[node] for node in scores]
    assert visits == ([1, 61, 1] if c == 0 else [21, 21, 21])


def test_simulations_of_one_round_spread() -> None:
    tree = SearchTree(Problem("p", "?", "1"), Grammar.default())
    for name in "ab":
        node = tree.attach(0, Step("next_step", name, (1,), (0.0,), (True,), terminal=False))
        tree.backup(node, 0.5)
    expansions = MCTS(expansion="sample", width=2, simulations_per_round=4).ask(tree, Random(0))
    assert sorted(expansion.node for expansion in expansions) == [1, 1, 2, 2]


def test_discount() -> None:
    replies = {
        (): [Reply("next_step", "n", 1.0)],
        ("n",): [Reply("next_step", "m", 1.0)],
        ("n", "m"): [Reply("output", "\\boxed{1}", 1.0)],
    }
    policy = TabularPolicy(Grammar.default(), replies)
    (tree,) = run_search(
        [Problem("p", "?", "1")],
        MCTS(discount=0.5),
        policy,
        MathVerifier(),
        SearchConfig(Budget(rollouts=1)),
    )
    assert [tree.value(node) for node in (3, 2, 1, 0)] == [1.0, 0.5, 0.25, 0.125]
