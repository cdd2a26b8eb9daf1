"""Strategies that go level by level, as their papers have them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftt import BeamSearch, Budget, SearchConfig, SearchTree, run_search
from rftt.search.scores import mean_log_prob, verifier_score
from rftt.search.strategies import REBASE, LookaheadSearch, SoftmaxBallot, TreeOfThoughts, Value, Vote
from rftt.search.strategies.levels.rebase import balanced_widths
from rftt.testing import finite_problems
from rftt.testing.finite.problem import FiniteProblem
from tests.search.golden import columns
from tests.search.scored import search, texts

# All first steps can be seen by the end of a level of 40 samples: the rarest has probability 0.2.
FIRST = {"": {"a": 0.3, "b": 0.3, "c": 0.2, "end": 0.2}}
SECOND = {name: {f"{name}1": 0.5, f"{name}2": 0.5} for name in "abc"}
SCORES = {
    "a": 0.9, "b": 0.2, "c": 0.8, "end": 0.85,
    "a1": 0.1, "a2": 0.2, "b1": 1.0, "b2": 0.95, "c1": 0.3, "c2": 0.4,
}  # fmt: skip


def expanded(tree: SearchTree) -> list[str]:
    """The texts of the steps that have children, and the question's."""
    return texts(tree, [node for node in range(1, len(tree)) if tree.children[node]])


def first_step(tree: SearchTree, text: str) -> int:
    """The first of the first steps with a text."""
    return next(node for node in tree.children[0] if tree.text(node) == text)


@pytest.mark.parametrize("distinct", [True, False])
def test_a_beam_samples_as_much_in_each_round_and_leaves_ends_behind(distinct: bool) -> None:
    """Of 40 first steps, a 0.9, end 0.85, c 0.8 and b 0.2, the two best that go on are kept, and get 20
    samples each: a and c, or two of some twelve copies of a."""
    searcher = BeamSearch(
        width=2, branching=20, distinct=distinct, score=verifier_score, scores_partial=True
    )
    tree = search(searcher, FIRST | SECOND, SCORES)
    grown = [node for node in tree.children[0] if tree.children[node]]
    assert texts(tree, grown) == (["a", "c"] if distinct else ["a", "a"])
    assert [len(tree.children[node]) for node in (0, *grown)] == [40, 20, 20]


@settings(max_examples=40)
@given(
    finite_problems(), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 9)
)  # fmt: skip
def test_a_beam_shares_as_many_samples_in_each_round(
    finite: FiniteProblem, width: int, branching: int, distinct: bool, seed: int
) -> None:
    """A beam that was not full, as in the first round, sampled less. The best get what is left over."""
    searcher = BeamSearch(width=width, branching=branching, distinct=distinct)
    config = SearchConfig(Budget(), seed=seed, max_depth=finite.depth)
    (tree,) = run_search(finite.problems(), searcher, finite.policy, finite.verifier, config)
    for depth in range(tree.rounds):
        grown = [node for node in range(len(tree)) if tree.depth[node] == depth and tree.children[node]]
        counts = [len(tree.children[node]) for node in grown]
        assert len(grown) <= width
        assert sum(counts) == width * branching
        assert max(counts) - min(counts) <= 1
        if depth:
            grown.sort(key=lambda node: -mean_log_prob(tree, node))
            assert [len(tree.children[node]) for node in grown] == sorted(counts, reverse=True)


def test_tree_of_thoughts_keeps_the_best_states_finished_or_not() -> None:
    """Of a 0.9, end 0.85, c 0.8 and b 0.2 two are kept, a and end. Of a1, a2 (0.1, 0.2) and end, which
    keeps its place, again two; all are finished."""
    tree = search(TreeOfThoughts(breadth=2, samples=40), FIRST | SECOND, SCORES)
    assert expanded(tree) == ["a"]
    assert tree.rollouts == 40 + 40
    assert texts(tree, tree.memo["thoughts"]) == ["a2", "end"]
    # With room for three, c is expanded too, and c2 (0.4) and c1 (0.3) are better than a2.
    tree = search(TreeOfThoughts(breadth=3, samples=40), FIRST | SECOND, SCORES)
    assert expanded(tree) == ["a", "c"]
    assert texts(tree, tree.memo["thoughts"]) == ["c1", "c2", "end"]


def test_copies_of_a_thought_count_once() -> None:
    tree = search(TreeOfThoughts(breadth=3, samples=40), {"": {"a": 0.8, "b": 0.2}} | SECOND, SCORES)
    assert Counter(texts(tree, tree.children[0]))["a"] > 20
    assert expanded(tree) == ["a", "b"]
    assert tree.rollouts == 40 + 2 * 40


def test_votes_are_counted() -> None:
    """Of five voters three are for c, and one each for b and a state that is finished."""

    def ballot(tree: SearchTree, states: Sequence[int], rng: Random) -> int:
        return [tree.text(state) for state in states].index(voters[next(turn) % 5])

    voters = ["c", "b", "c", "end", "c"]
    turn = iter(range(100))
    found = Vote(ballot, votes=5)
    tree = search(TreeOfThoughts(4, 40), FIRST | SECOND, SCORES)
    states = [
        next(n for n in tree.children[0] if tree.text(n) == name) for name in ("a", "b", "c", "end")
    ]
    assert found(tree, states, Random(0)) == [0, 1, 3, 1]
    turn = iter(range(100))
    tree = search(TreeOfThoughts(1, 40, Vote(ballot, votes=5)), {**FIRST, "c": {"end": 1.0}}, SCORES)
    assert expanded(tree) == ["c"]


def test_a_vote_for_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="voted for state 7 of 4; return a place, from 0"):
        search(TreeOfThoughts(2, 40, Vote(lambda tree, states, rng: 7)), FIRST | SECOND, SCORES)


def test_a_softmax_ballot_votes_in_proportion() -> None:
    """At temperature 0.1, 0.9 against 0.8 is e against 1. What has no score gets no vote."""
    tree = search(TreeOfThoughts(4, 40), FIRST | SECOND, SCORES | {"b": None})
    a, b, c = (first_step(tree, name) for name in "abc")
    rng, ballot = Random(0), SoftmaxBallot(temperature=0.1)
    votes = Counter(ballot(tree, [a, b, c], rng) for _ in range(4000))
    share = math.e / (1 + math.e)
    assert votes[1] == 0
    assert abs(votes[0] / 4000 - share) < 4 * math.sqrt(share * (1 - share) / 4000)
    assert {ballot(tree, [b, b], rng) for _ in range(50)} == {0, 1}, "no score at all: any"


@pytest.mark.parametrize(
    ("scores", "width", "temperature", "expected"),
    [
        # exp(0, -2, -4) = 1, 0.1353, 0.0183. Of 16: 16 / 1.1537 = 13.87, up to 14. Of the 2 left:
        # 2 * 0.1353 / 0.1537 = 1.76, up to 2. Nothing is left.
        ([0.9, 0.5, 0.1], 16, 0.2, [14, 2, 0]),
        # The same in another order.
        ([0.1, 0.9, 0.5], 16, 0.2, [0, 14, 2]),
        # exp(0, -1): of 8, 8 / 1.3679 = 5.85, up to 6.
        ([0.3, 0.1], 8, 0.2, [6, 2]),
        # Equal: a third of 7 up to 3, half of 4, and 2.
        ([0.5, 0.5, 0.5], 7, 0.2, [3, 2, 2]),
        # Six in three equal parts is a whole number, whatever rounding does to thirds.
        ([0.1, 0.1, 0.1], 6, 0.1, [2, 2, 2]),
        ([-math.inf, 0.2], 5, 0.2, [0, 5]),
        ([-math.inf, -math.inf], 4, 0.2, [2, 2]),
    ],
)
def test_balanced_widths_by_hand(
    scores: list[float], width: int, temperature: float, expected: list[int]
) -> None:
    assert balanced_widths(scores, width, temperature) == expected


@given(
    st.lists(st.floats(-2, 2), min_size=1, max_size=12), st.integers(1, 64), st.floats(0.05, 5),
)  # fmt: skip
def test_balanced_widths_use_all_and_favour_the_better(
    scores: list[float], width: int, temperature: float
) -> None:
    widths = balanced_widths(scores, width, temperature)
    assert sum(widths) == width
    ranked = sorted(zip(scores, widths, strict=True), reverse=True)
    assert [each for _, each in ranked] == sorted(widths, reverse=True)
    top = sum(math.exp((score - max(scores)) / temperature) for score in scores)
    assert max(widths) == math.ceil(width / top - 1e-9)


def test_rebase_shares_a_level_by_its_rewards() -> None:
    """Eight first steps; then the places of finished ones are taken, and the rest is shared among the
    paths that go on: copies are paths of their own, as in the paper."""
    tree = search(REBASE(width=8, temperature=0.2), FIRST | SECOND, SCORES)
    first = tree.children[0]
    assert len(first) == 8
    growing = [node for node in first if tree.text(node) != "end"]
    widths = balanced_widths(
        [SCORES[tree.text(node)] for node in growing], len(growing), temperature=0.2
    )
    assert [len(tree.children[node]) for node in growing] == widths
    assert max(widths) > 1
    assert min(widths) == 0


@settings(max_examples=40)
@given(finite_problems(), st.integers(1, 8), st.integers(0, 9))
def test_rebase_samples_as_many_solutions_as_it_is_wide(
    finite: FiniteProblem, width: int, seed: int
) -> None:
    config = SearchConfig(Budget(), seed=seed, max_depth=finite.depth)
    (tree,) = run_search(finite.problems(), REBASE(width), finite.policy, finite.verifier, config)
    assert sum(tree.is_terminal(node) for node in range(len(tree))) == width


def test_a_lookahead_sees_where_a_step_leads() -> None:
    """Step a has the better score, 0.9 against 0.2, and leads to 0.1 and 0.2; b leads to 0.95 and 1."""
    following = {"": {"a": 0.5, "b": 0.5}} | SECOND
    for ahead, beam, rollouts in ((0, "a", 20 + 20), (1, "b", 20 + 2 + 20), (3, "b", 20 + 2 + 20)):
        tree = search(LookaheadSearch(1, 20, ahead), following, SCORES)
        sampled = [node for node in tree.children[0] if len(tree.children[node]) > 1]
        assert texts(tree, sampled) == [beam]
        # One rollout for each of the two distinct steps; it ends with the solution.
        assert tree.rollouts == rollouts


def test_a_rollout_goes_as_many_steps_ahead_as_it_should() -> None:
    chain = {"": {"a": 1.0}} | {"a" * n: {"a" * (n + 1): 1.0} for n in range(1, 6)}
    for ahead in range(4):
        searcher = LookaheadSearch(width=1, branching=1, steps_ahead=ahead)
        tree = search(searcher, chain, {}, rollouts=1 + ahead)
        assert max(tree.depth) == 1 + ahead
        # The beam has then moved by one step, and the next sample is a second child of it.
        tree = search(searcher, chain, {}, rollouts=2 + ahead)
        assert tree.parent[-1] == 1


@settings(max_examples=40)
@given(finite_problems(), st.integers(1, 3), st.integers(1, 3), st.integers(0, 9))
def test_without_steps_ahead_it_is_beam_search(
    finite: FiniteProblem, width: int, branching: int, seed: int
) -> None:
    config = SearchConfig(Budget(rollouts=30), seed=seed, max_depth=finite.depth)
    for score in (verifier_score, mean_log_prob):
        one = LookaheadSearch(width, branching, steps_ahead=0, score=score)
        other = BeamSearch(width=width, branching=branching, score=score, scores_partial=True)
        trees = [
            run_search(finite.problems(), searcher, finite.policy, finite.verifier, config)[0]
            for searcher in (one, other)
        ]
        assert columns(trees[0]) == columns(trees[1])


@settings(max_examples=30)
@given(finite_problems(), st.integers(1, 4), st.integers(1, 3), st.integers(0, 9))
def test_tree_of_thoughts_keeps_as_many_states_as_it_may(
    finite: FiniteProblem, breadth: int, samples: int, seed: int
) -> None:
    searcher = TreeOfThoughts(breadth, samples, Value(mean_log_prob))
    config = SearchConfig(Budget(), seed=seed, max_depth=finite.depth)
    (tree,) = run_search(finite.problems(), searcher, finite.policy, finite.verifier, config)
    for depth in range(finite.depth):
        level = [node for node in range(len(tree)) if tree.depth[node] == depth]
        assert sum(bool(tree.children[node]) for node in level) <= breadth
    assert 1 <= len(tree.memo["thoughts"]) <= breadth
    assert all(tree.is_terminal(node) for node in tree.memo["thoughts"])
