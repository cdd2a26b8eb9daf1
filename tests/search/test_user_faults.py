"""What others get wrong is refused by name, before anything is spent on it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from attrs import frozen

from rftt import (
    MCTS,
    Budget,
    Expansion,
    GenerationRequest,
    Grammar,
    MathVerifier,
    Problem,
    SearchConfig,
    Searcher,
    SearchTree,
    Step,
    run_search,
)
from rftt.testing.finite.tabular import Reply, TabularPolicy
from tests.strategies import problems


class _Paid(TabularPolicy):
    """Counts the completions that it was asked for."""

    def __init__(self) -> None:
        table = {(): [Reply("next_step", "so \\boxed{1}", 1.0)]}
        super().__init__(Grammar.default(), table)
        self.paid = 0

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        self.paid += len(requests)
        return super().extend(requests)


@frozen
class _Asks(Searcher):
    """Asks for what it is given, round after round."""

    what: Any

    def ask(self, tree: SearchTree, rng: Random) -> Any:
        return self.what


def _run(what: Any, budget: Budget, policy: _Paid) -> list[SearchTree]:
    return run_search(problems(2), _Asks(what), policy, MathVerifier(), SearchConfig(budget))


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ([Expansion(1)], ValueError, "_Asks asks to expand node 1 of 'p0', but there are nodes 0 to 0"),
        (
            [Expansion(-1)],
            ValueError,
            "expand node -1 of 'p0', but there are nodes 0 to 0",
        ),
        (
            [Expansion(0), Expansion(0, function="output")],
            ValueError,
            "_Asks asks to expand node 0 of 'p0', but 'output' may not follow it; legal: clarify, ",
        ),
        ([Expansion(0, function="outptu")], ValueError, "'outptu' may not follow it"),
        (None, TypeError, "_Asks.ask returned None, a NoneType; return a list of Expansion"),
        ((n for n in ()), TypeError, "_Asks.ask returned <generator .*, a generator; return a list of"),
        (Expansion(0), TypeError, r"_Asks.ask returned Expansion\(node=0.*, a Expansion; return a list"),
        ([0], TypeError, "_Asks.ask returned 0, a int, as expansion 0 of 1; return Expansion"),
        ([], ValueError, "_Asks asks for nothing, but says that its search of 'p0' is not done"),
    ],
)
def test_what_a_strategy_may_not_ask_is_named_before_a_sample_is_paid_for(
    what: Any, error: type[Exception], message: str
) -> None:
    policy = _Paid()
    with pytest.raises(error, match=message):
        _run(what, Budget(rollouts=4), policy)
    assert policy.paid == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"node": 0.0}, "'node' must be <class 'int'>"),
        ({"node": None}, "'node' must be <class 'int'>"),
        ({"node": 0, "count": 0}, "'count' must be >= 1"),
        ({"node": 0, "count": 1.5}, "'count' must be <class 'int'>"),
        ({"node": 0, "until": "end"}, "'until' must be in "),
    ],
)
def test_an_expansion_that_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Expansion(**settings)


@pytest.mark.parametrize(
    "budget", [Budget(rollouts=3), Budget(nodes=3), Budget(tokens=3), Budget(rollouts=3, nodes=99)]
)
def test_a_huge_count_is_bounded_by_the_budget_at_once(budget: Budget) -> None:
    policy, start = _Paid(), time.perf_counter()
    trees = _run([Expansion(0, count=10**12)], budget, policy)
    assert time.perf_counter() - start < 2
    assert [tree.rollouts for tree in trees] == [3, 3]


def test_a_huge_count_that_the_budget_does_not_bound_is_refused() -> None:
    policy = _Paid()
    with pytest.raises(ValueError, match=r"_Asks asks for 10000000 completions .* give Budget\("):
        _run([Expansion(0, count=10**7)], Budget(policy_calls=2), policy)
    assert policy.paid == 0


@pytest.mark.parametrize("limit", [-1, 0])
def test_no_tree_at_a_time_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="'max_concurrent_trees' must be >= 1"):
        SearchConfig(Budget(rollouts=1), max_concurrent_trees=limit)


@pytest.mark.parametrize(
    ("place", "given", "message"),
    [
        (0, Problem("p", "?"), "problems: .* is not a sequence of problems"),
        (0, ["1+1"], r"problems\[0\]: '1\+1' is not a Problem"),
        (1, MCTS, r"searcher: <class .*MCTS'> is not a Searcher; give an instance, such as MCTS\(\)"),
        (2, _Paid, r"policy: <class .* is not a Policy; give an instance, such as load_policy"),
        (3, MathVerifier, r"verifier: <class .* is not a Verifier; give an instance, such as Math"),
        (4, Budget(rollouts=1), "config: Budget.* is not a SearchConfig; give an instance, such as"),
    ],
)
def test_an_argument_of_another_kind_is_named(place: int, given: Any, message: str) -> None:
    arguments: list[Any] = [
        problems(), MCTS(), _Paid(), MathVerifier(), SearchConfig(Budget(rollouts=1)),
    ]  # fmt: skip
    arguments[place] = given
    with pytest.raises(TypeError, match=message):
        run_search(*arguments)


@pytest.mark.parametrize("node", [-1, 1])
def test_a_node_that_does_not_exist_is_named(node: int) -> None:
    tree = SearchTree(Problem("p", "?"), Grammar.default())
    step = Step("next_step", "", (), (), (), terminal=False)
    for touch in (
        lambda: tree.attach(node, step),
        lambda: tree.backup(node, 1.0),
        lambda: tree.add_visits(node, 1),
        lambda: tree.mark_exhausted(node),
        lambda: tree.state(node),
    ):
        with pytest.raises(IndexError, match=f"tree 'p' has no node {node}; it has 0 to 0"):
            touch()
    assert (len(tree), tree.visits, tree.exhausted) == (1, [0], [False])
