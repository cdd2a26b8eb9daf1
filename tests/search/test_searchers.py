"""What holds for every search: structure, grammar, conservation, bounds, budget, determinism."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from rftt import (
    BestOfN,
    Budget,
    Grammar,
    MathVerifier,
    SearchConfig,
    Searcher,
    SearchTree,
    resume_search,
    run_search,
)
from rftt.search.tree.storage import tree_from_json, tree_to_json
from rftt.testing.finite.tabular import Reply, TabularPolicy
from tests.strategies import budgets, policies, problems, searchers


def _search(
    policy: TabularPolicy, searcher: Searcher, budget: Budget, seed: int = 0, count: int = 1
) -> list[SearchTree]:
    return run_search(
        problems(count), searcher, policy, MathVerifier(), SearchConfig(budget, seed=seed, max_depth=6)
    )


@given(policies(), searchers, budgets, st.integers(0, 99))
def test_structure_grammar_and_depth(
    policy: TabularPolicy, searcher: Searcher, budget: Budget, seed: int
) -> None:
    (tree,) = _search(policy, searcher, budget, seed)
    assert tree.parent[0] == -1
    for node in range(1, len(tree)):
        assert 0 <= tree.parent[node] < node
        assert tree.depth[node] == tree.depth[tree.parent[node]] + 1 <= 6
        assert node in tree.children[tree.parent[node]]
        functions = [step.function for step in tree.state(node).steps]
        assert policy.grammar.violation(functions) is None
        if tree.is_terminal(node):
            assert tree.children[node] == []


@given(policies(), searchers, budgets, st.integers(0, 99))
def test_visits_are_conserved_and_values_bounded(
    policy: TabularPolicy, searcher: Searcher, budget: Budget, seed: int
) -> None:
    (tree,) = _search(policy, searcher, budget, seed)
    assert tree.visits[0] == tree.rollouts == sum(tree.ended)
    for node in range(len(tree)):
        assert tree.visits[node] == tree.ended[node] + sum(tree.visits[c] for c in tree.children[node])
        assert tree.value_count[node] <= tree.visits[node]
        value = tree.value(node)
        assert value is None or 0.0 <= value <= 1.0


@given(policies(), searchers, budgets, st.integers(0, 99))
def test_budget_is_never_overspent(
    policy: TabularPolicy, searcher: Searcher, budget: Budget, seed: int
) -> None:
    (tree,) = _search(policy, searcher, budget, seed)
    for limit, spent in (
        (budget.rollouts, tree.rollouts),
        (budget.nodes, len(tree) - 1),
        (budget.tokens, tree.tokens),
        (budget.policy_calls, tree.rounds),
    ):
        assert limit is None or spent <= limit
    assert len(tree) > 1, "the smallest budget still buys a step"


@settings(max_examples=30)
@given(policies(), searchers, budgets, st.integers(0, 99))
def test_same_seed_same_tree_whatever_shares_the_batch(
    policy: TabularPolicy, searcher: Searcher, budget: Budget, seed: int
) -> None:
    together = _search(policy, searcher, budget, seed, count=4)
    verifier = MathVerifier()
    for order in (slice(None), slice(None, None, -1)):
        for problem, tree in list(zip(problems(4), together, strict=True))[order]:
            (alone,) = run_search(
                [problem], searcher, policy, verifier, SearchConfig(budget, seed=seed, max_depth=6)
            )
            assert tree_to_json(alone) == tree_to_json(tree)


def test_other_seed_other_tree() -> None:
    # A fair coin tossed 40 times: two seeds agree with probability 2 ** -40.

    coin = TabularPolicy(
        Grammar.default(), {(): [Reply("next_step", "heads", 0.5), Reply("next_step", "tails", 0.5)]}
    )
    trees = [_search(coin, BestOfN(), Budget(rollouts=40), seed)[0] for seed in (0, 1)]
    assert [t.text(n) for t in trees[:1] for n in range(1, 41)] != [
        t.text(n) for t in trees[1:] for n in range(1, 41)
    ]


@settings(max_examples=30)
@given(policies(), searchers, st.integers(2, 12), st.integers(1, 6), st.integers(0, 9))
def test_stopped_saved_and_resumed_ends_as_if_never_stopped(
    policy: TabularPolicy, searcher: Searcher, rollouts: int, rounds: int, seed: int
) -> None:

    (unbroken,) = _search(policy, searcher, Budget(rollouts=rollouts), seed)
    (part,) = _search(policy, searcher, Budget(rollouts=rollouts, policy_calls=rounds), seed)
    resumed = tree_from_json(json.loads(json.dumps(tree_to_json(part))))
    config = SearchConfig(Budget(rollouts=rollouts), seed=seed, max_depth=6)
    resume_search([resumed], searcher, policy, MathVerifier(), config)
    assert tree_to_json(resumed) == tree_to_json(unbroken)
