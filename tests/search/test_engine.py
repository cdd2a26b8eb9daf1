"""One policy call and one verifier call a round; budgets that buy complete solutions; one way to end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from rftt import (
    MCTS,
    BeamSearch,
    BestOfN,
    Budget,
    Expansion,
    GenerationRequest,
    Grammar,
    MathVerifier,
    Policy,
    Problem,
    SearchConfig,
    Searcher,
    SearchTree,
    State,
    Step,
    Verdict,
    Verifier,
    majority,
    resume_search,
    run_search,
)
from rftt.interfaces import StepStream
from rftt.search.scores import verifier_score
from rftt.search.strategies import GumbelMCTS
from rftt.search.tree.storage import tree_to_json
from rftt.testing.finite.tabular import Reply, TabularPolicy
from tests.models import functional_policy
from tests.strategies import budgets, policies, problems, searchers

THREE_STEPS = TabularPolicy(
    Grammar.default(),
    {
        (): [Reply("analysis", "plan", 1.0)],
        ("plan",): [Reply("next_step", "add", 1.0)],
        ("plan", "add"): [Reply("output", "\\boxed{1}", 1.0)],
    },
)


class _Counting(Policy, Verifier):
    """Counts the calls of a policy and a verifier."""

    def __init__(self, policy: Policy, verifier: Verifier) -> None:
        self.grammar, self.policy, self.verifier = policy.grammar, policy, verifier
        self.extended, self.judged = 0, 0

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        return self.policy.prior(states)

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        self.extended += 1
        return self.policy.extend(requests)

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        self.judged += 1
        return self.verifier.judge(states)


@pytest.mark.parametrize(
    "searcher",
    [BeamSearch(width=2, branching=2, score=verifier_score, scores_partial=True), MCTS()],
    ids=["beam", "mcts"],
)
def test_a_round_is_one_policy_call_and_one_verifier_call(searcher: Searcher) -> None:
    rounds = 0

    def count(trees: Sequence[SearchTree], finished: int) -> None:
        nonlocal rounds
        rounds += 1

    counting = _Counting(THREE_STEPS, MathVerifier())
    config = SearchConfig(Budget(rollouts=12))
    run_search(problems(64), searcher, counting, counting, config, on_round=count)
    assert counting.extended == counting.judged == rounds > 0


def test_a_tight_budget_buys_fewer_complete_solutions() -> None:
    (tree,) = run_search(
        problems(1), BestOfN(), THREE_STEPS, MathVerifier(), SearchConfig(Budget(rollouts=8, nodes=10))
    )
    scores = [verdict.score for verdict in tree.verdict if verdict is not None]
    assert scores == [1.0, 1.0, 1.0]
    assert majority(tree) == "1"
    assert len(tree) - 1 == 10, "the last node buys a step of a fourth, which is not judged"


@given(policies(), searchers.filter(lambda s: not s.scores_partial), budgets, st.integers(0, 9))
def test_what_the_budget_cut_is_not_judged(
    policy: TabularPolicy, searcher: Searcher, budget: Budget, seed: int
) -> None:
    config = SearchConfig(budget, seed=seed, max_depth=6)
    trees = run_search(problems(2), searcher, policy, MathVerifier(), config)
    for tree in trees:
        for node, verdict in enumerate(tree.verdict):
            assert verdict is None or tree.is_terminal(node) or tree.depth[node] == 6


def test_tokens_count_sampled_ids_only() -> None:
    policy = functional_policy()
    config = SearchConfig(Budget(rollouts=4, tokens=40), max_tokens=10)
    (tree,) = run_search([Problem("p", "1+2")], MCTS(), policy, MathVerifier(), config)
    steps = [step for step in tree.step if step is not None]
    assert tree.tokens == sum(sum(step.action_mask) for step in steps) <= 40
    assert sum(len(step.ids) for step in steps) == tree.tokens + tree.rollouts, "openers are forced"


class _LastFirst(StepStream):
    """Answers one request at a time, the last first."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._added: list[tuple[int, GenerationRequest]] = []

    def add(self, key: int, request: GenerationRequest) -> None:
        self._added.append((key, request))

    def collect(self) -> list[tuple[int, Sequence[Step]]]:
        if not self._added:
            return []
        key, request = self._added.pop()
        return [(key, self._policy.extend([request])[0])]


class _Uneven(TabularPolicy):
    """Finishes its completions in an order of its own."""

    def stream(self) -> StepStream:
        return _LastFirst(self)


@given(policies(), searchers, budgets, st.none() | st.integers(1, 3), st.integers(0, 9), st.booleans())
def test_streaming_gives_the_trees_of_rounds(
    policy: TabularPolicy,
    searcher: Searcher,
    budget: Budget,
    limit: int | None,
    seed: int,
    streaming: bool,
) -> None:
    config = SearchConfig(budget, seed=seed, max_depth=6, max_concurrent_trees=limit)
    rounds = run_search(problems(3), searcher, policy, MathVerifier(), config)
    uneven = _Uneven(policy.grammar, policy.table)
    config = SearchConfig(
        budget, seed=seed, max_depth=6, max_concurrent_trees=limit, streaming=streaming
    )
    streamed = run_search(problems(3), searcher, uneven, MathVerifier(), config)
    assert [tree_to_json(tree) for tree in streamed] == [tree_to_json(tree) for tree in rounds]


@pytest.mark.parametrize("expansion", ["enumerate", "sample"])
def test_a_model_gives_the_same_trees_when_streaming(expansion: str) -> None:
    questions = [Problem(str(i), f"{i}+{2 * i}") for i in range(5)]
    found = []
    for streaming in (False, True):
        searcher = MCTS(expansion=expansion, width=2, simulations_per_round=2)  # type: ignore[arg-type]
        config = SearchConfig(Budget(rollouts=6), max_tokens=25, streaming=streaming)
        policy = functional_policy(batch_size=4)
        trees = run_search(questions, searcher, policy, MathVerifier(), config)
        found.append([(tree.parent, [s and s.ids for s in tree.step]) for tree in trees])
    assert found[0] == found[1]


def test_completions_are_reported_as_they_arrive() -> None:
    seen: list[int] = []
    config = SearchConfig(Budget(rollouts=5))
    uneven = _Uneven(THREE_STEPS.grammar, THREE_STEPS.table)
    run_search(problems(2), BestOfN(), uneven, MathVerifier(), config, on_completions=seen.append)
    assert seen == [1] * 10, "all in one round"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_hook_can_stop_a_search(streaming: bool) -> None:
    seen: list[int] = []

    def stop(trees: Sequence[SearchTree], finished: int) -> bool:
        seen.append(finished)
        return False

    config = SearchConfig(Budget(rollouts=9), streaming=streaming)
    (tree,) = run_search(
        problems(1), MCTS(expansion="sample"), THREE_STEPS, MathVerifier(), config, on_round=stop
    )
    assert (seen, tree.rounds) == ([0], 1)


@frozen
class _Silent(Searcher):
    """Asks for nothing, and does not say that it is done."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return []


def test_a_search_ends_in_one_way() -> None:
    with pytest.raises(ValueError, match=r"_Silent asks for nothing, but says that .* is not done"):
        run_search(problems(1), _Silent(), THREE_STEPS, MathVerifier(), SearchConfig(Budget(rollouts=1)))


@pytest.mark.parametrize("searcher", [BestOfN(), GumbelMCTS()], ids=["BestOfN", "GumbelMCTS"])
def test_a_strategy_that_plans_with_rollouts_needs_their_number(searcher: Searcher) -> None:
    with pytest.raises(ValueError, match=r"plans with the number of rollouts: give Budget\(rollouts="):
        run_search(problems(1), searcher, THREE_STEPS, MathVerifier(), SearchConfig(Budget(nodes=9)))


def test_a_tree_of_another_depth_is_refused() -> None:
    tree = SearchTree(problems(1)[0], THREE_STEPS.grammar, max_depth=5)
    with pytest.raises(ValueError, match="max_depth=5; the config has 18"):
        resume_search([tree], MCTS(), THREE_STEPS, MathVerifier(), SearchConfig(Budget(rollouts=1)))
