"""Trees that do not wait for each other are the same trees."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import (
    MCTS,
    Budget,
    MathVerifier,
    Problem,
    Searcher,
    SearchTree,
    TabularPolicy,
    run_search,
    stream_search,
)
from rftt.interfaces import ChainStream, Extension, Segment
from rftt.search.storage import tree_to_json
from tests.models import functional_policy
from tests.strategies import budgets, policies, problems, searchers


class _OneByOne(ChainStream):
    """Answers one request at a time, the last first."""

    def __init__(self, policy: TabularPolicy) -> None:
        self._policy = policy
        self._added: list[tuple[int, Extension]] = []

    def add(self, key: int, request: Extension) -> None:
        self._added.append((key, request))

    def collect(self) -> list[tuple[int, Sequence[Segment]]]:
        if not self._added:
            return []
        key, request = self._added.pop()
        return [(key, self._policy.extend([request])[0])]


class _Uneven(TabularPolicy):
    """Gives its replies in an order of its own."""

    def stream(self) -> ChainStream:
        return _OneByOne(self)


def _json(trees: Sequence[SearchTree]) -> list[object]:
    return [tree_to_json(tree) for tree in trees]


@given(policies(), searchers, budgets, st.none() | st.integers(1, 3), st.integers(0, 9), st.booleans())
def test_the_trees_are_those_of_rounds(
    policy: TabularPolicy,
    searcher: Searcher,
    budget: Budget,
    at_once: int | None,
    seed: int,
    uneven: bool,
) -> None:
    by = _Uneven(policy.grammar, policy.table) if uneven else policy
    rounds, stream = (
        search(
            problems(3), searcher, p, MathVerifier(), budget=budget, seed=seed, max_depth=6,
            at_once=at_once,
        )
        for search, p in ((run_search, policy), (stream_search, by))
    )  # fmt: skip
    assert _json(stream) == _json(rounds)


@pytest.mark.parametrize("openers", ["ranked", "sampled"])
def test_with_a_model_too_priors_and_all(openers: str) -> None:
    questions = [Problem(str(i), f"{i}+{2 * i}") for i in range(5)]
    found = []
    for search in (run_search, stream_search):
        policy = functional_policy(batch_size=4)
        searcher = MCTS(openers=openers, width=2, parallel=2)  # type: ignore[arg-type]
        found.append(
            search(questions, searcher, policy, MathVerifier(), budget=Budget(rollouts=6), max_tokens=25)
        )
    rounds, stream = [[(t.parent, [s and s.ids for s in t.segment]) for t in trees] for trees in found]
    assert stream == rounds


def test_a_hook_can_stop_it() -> None:
    policy = functional_policy()
    seen: list[int] = []

    def stop(trees: Sequence[SearchTree], finished: int) -> bool:
        seen.append(finished)
        return False

    (tree,) = stream_search(
        [Problem("p", "1+2")], MCTS(openers="sampled", width=2), policy, MathVerifier(),
        budget=Budget(rollouts=9), max_tokens=20, on_round=stop,
    )  # fmt: skip
    assert (seen, tree.rounds) == ([0], 1)


def test_two_problems_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="share the id 'p'"):
        stream_search(
            [Problem("p", "1"), Problem("p", "2")], MCTS(), functional_policy(), MathVerifier(),
            budget=Budget(rollouts=1),
        )  # fmt: skip
