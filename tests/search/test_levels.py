"""Beams, subtrees, frontiers and particles, step by step: the best of how many, and copies once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from rftt import (
    BeamSearch,
    Budget,
    Grammar,
    MathVerifier,
    Problem,
    SearchConfig,
    Searcher,
    SearchTree,
    State,
    Step,
    Verdict,
    Verifier,
    run_search,
)
from rftt.aggregation import last, mean, minimum, product
from rftt.fingerprint import difference, fingerprint
from rftt.search.scores import mean_prob, score_node, step_score, verifier_score, without_copies
from rftt.search.strategies import (
    DiverseTreeSearch,
    FrontierSearch,
    ParticleFilter,
    best_first,
    breadth_first,
    depth_first,
)
from rftt.testing.finite.tabular import Reply, TabularPolicy
from tests.strategies import policies, problems


@frozen
class _FirstStep(Verifier):
    """Scores a path by its first step."""

    scores: dict[str, float]

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [Verdict(self.scores[state.steps[0].text]) for state in states]


def _two_ways(good: float) -> TabularPolicy:
    table = {
        (): [Reply("next_step", "good", good), Reply("next_step", "bad", 1 - good)],
        **{(way,): [Reply("output", "so \\boxed{1}", 1.0)] for way in ("good", "bad")},
    }
    return TabularPolicy(Grammar.default(), table)


def _finished_ways(tree: SearchTree) -> Counter[str]:
    """Count the finished solutions by their first step."""
    ends = [node for node in tree.ends() if tree.is_finished(node)]
    return Counter(tree.text(tree.path(node)[0]) for node in ends)


def test_each_subtree_begins_with_the_best_of_several_steps() -> None:
    searcher = DiverseTreeSearch(subtrees=1, branching=4, score=verifier_score, scores_partial=True)
    trees = run_search(
        problems(200), searcher, _two_ways(0.3), _FirstStep({"good": 1.0, "bad": 0.0}),
        SearchConfig(Budget(rollouts=99)),
    )  # fmt: skip
    ways = [_finished_ways(tree) for tree in trees]
    assert all(len(way) == 1 for way in ways), "there is one subtree"
    # 1 - .7 ** 4 = .7599 of 200, within three standard deviations of .03.
    assert 0.67 <= sum("good" in way for way in ways) / 200 <= 0.85


def test_subtrees_do_not_compete() -> None:
    searcher = DiverseTreeSearch(subtrees=3, branching=2, score=verifier_score, scores_partial=True)
    asked = []
    for rounds in (0, 1, 2):
        config = SearchConfig(Budget(rollouts=99, policy_calls=rounds or None), seed=3)
        tree = SearchTree(problems()[0], Grammar.default())
        if rounds:
            verifier = _FirstStep({"good": 1.0, "bad": 0.0})
            (tree,) = run_search(problems(), searcher, _two_ways(0.3), verifier, config)
        asked.append([(each.node, each.count) for each in searcher.ask(tree, Random(0))])
    first, second, _ = asked
    assert first == [(0, 2)] * 3
    # Of nodes 1 and 2, 3 and 4, 5 and 6 the better, or the first of equals.
    assert [(node - 1) // 2 for node, _ in second] == [0, 1, 2]


WAYS = ("same", "other")
PARTS = [(way, f"{way} {i}") for way in WAYS for i in range(4)]
ONE_IDEA = TabularPolicy(
    Grammar.default(),
    {
        (): [Reply("next_step", "same", 0.9), Reply("next_step", "other", 0.1)],
        **{(way,): [Reply("next_step", f"{way} {i}", 0.25) for i in range(4)] for way in WAYS},
        **{path: [Reply("output", "so \\boxed{1}", 1.0)] for path in PARTS},
    },
)


def _expanded(tree: SearchTree) -> Counter[tuple[tuple[str, str], ...]]:
    """Count how many nodes of each path have children."""
    paths = [tuple((s.function, s.text) for s in tree.state(n).steps) for n in range(len(tree))]
    return Counter(path for node, path in enumerate(paths) if tree.children[node])


def test_a_beam_does_not_fill_up_with_copies() -> None:
    searcher = BeamSearch(width=8, branching=8)
    config = SearchConfig(Budget(rollouts=3 * 64), seed=0)
    (tree,) = run_search(problems(), searcher, ONE_IDEA, MathVerifier(), config)
    assert len(tree.children[0]) == 64
    found = {tuple(text for _, text in path) for path in _expanded(tree)}
    assert found == {(), ("same",), ("other",), *PARTS}
    assert set(_expanded(tree).values()) == {1}


@given(
    policies(),
    st.one_of(
        st.builds(BeamSearch, width=st.integers(1, 4), branching=st.integers(1, 6)),
        st.builds(
            FrontierSearch,
            order=st.sampled_from([best_first, breadth_first, depth_first]),
            branching=st.integers(1, 6),
            nodes_per_round=st.integers(1, 3),
        ),
    ),
    st.integers(0, 9),
)
def test_of_equal_paths_one_is_expanded(policy: TabularPolicy, searcher: Searcher, seed: int) -> None:
    config = SearchConfig(Budget(rollouts=60), seed=seed, max_depth=6)
    (tree,) = run_search(problems(), searcher, policy, MathVerifier(), config)
    assert set(_expanded(tree).values()) <= {1}


def _step(text: str, ids: Sequence[int], function: str = "next_step") -> Step:
    return Step(function, text, ids, [-0.5] * len(ids), [True] * len(ids), terminal=False)


def test_copies_have_equal_parents_functions_ids_and_texts() -> None:
    tree = SearchTree(Problem("p", "?"), Grammar.default())
    first = tree.attach(0, _step("a", [1]))
    copy = tree.attach(0, _step("a", [1]))
    other_ids = tree.attach(0, _step("a", [2]))
    other_function = tree.attach(0, _step("a", [1], "analysis"))
    no_ids = tree.attach(0, _step("a", []))
    below = tree.attach(first, _step("a", [1]))
    below_copy = tree.attach(copy, _step("a", [1]))
    distinct = [other_ids, other_function, no_ids, below, below_copy]
    assert without_copies(tree, [copy, first, *distinct]) == [copy, *distinct]


def test_particles_are_drawn_by_the_odds_of_their_scores() -> None:
    searcher = ParticleFilter(particles=1000, score=verifier_score, scores_partial=True)
    config = SearchConfig(Budget(rollouts=9999, policy_calls=1), seed=1)
    verifier = _FirstStep({"good": 0.9, "bad": 0.1})
    (tree,) = run_search(problems(), searcher, _two_ways(0.5), verifier, config)
    number = Counter(map(tree.text, tree.children[0]))
    drawn = Counter[str]()
    for expansion in searcher.ask(tree, Random(0)):
        drawn[tree.text(expansion.node)] += expansion.count
    # Odds of 9 and of 1/9 each.
    share = 81 * number["good"] / (81 * number["good"] + number["bad"])
    assert drawn.total() == 1000
    assert abs(drawn["good"] - 1000 * share) < 40, "each node to within one"
    assert 0.97 < share < 1


def _judged(verdict: Verdict | None) -> SearchTree:
    tree = SearchTree(Problem("p", "?"), Grammar.default())
    tree.verdict[tree.attach(0, _step("a", [1]))] = verdict
    return tree


def test_a_node_is_scored_by_the_scores_of_the_steps_to_it() -> None:
    tree = _judged(Verdict(0.3, step_scores=(0.5, 0.25, 1.0)))
    found = [step_score(aggregation)(tree, 1) for aggregation in (last, minimum, product, mean)]
    assert found == [1.0, 0.25, 0.125, pytest.approx(1.75 / 3)]
    for abstained in (None, Verdict(None), Verdict(0.9), Verdict(None, step_scores=())):
        for aggregation in (last, minimum, product, mean):
            assert step_score(aggregation)(_judged(abstained), 1) == -math.inf


def test_strategies_with_other_aggregations_can_be_told_apart() -> None:
    one, other = (fingerprint(BeamSearch(score=step_score(each))) for each in (minimum, mean))
    assert "rftt.aggregation.minimum" in str(difference(one, other))


class _Steps(Verifier):
    """Scores each step: a good one 1, a bad one .5."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        scores = [tuple(0.5 if step.text == "bad" else 1.0 for step in s.steps) for s in states]
        return [Verdict(None, step_scores=each) for each in scores]


def test_a_beam_goes_by_step_scores() -> None:
    searcher = BeamSearch(width=1, branching=8, score=step_score(minimum), scores_partial=True)
    config = SearchConfig(Budget(rollouts=16), seed=0)
    trees = run_search(problems(20), searcher, _two_ways(0.3), _Steps(), config)
    for tree in trees:
        way = "good" if "good" in map(tree.text, tree.children[0]) else "bad"
        assert _finished_ways(tree) == {way: 8}


def _not_a_number(tree: SearchTree, node: int) -> float:
    return math.nan


@pytest.mark.parametrize(
    "searcher",
    [
        BeamSearch(score=_not_a_number),
        DiverseTreeSearch(score=_not_a_number),
        FrontierSearch(score=_not_a_number),
        ParticleFilter(score=_not_a_number),
    ],
    ids=lambda searcher: type(searcher).__name__,
)
def test_a_score_that_is_not_a_number_is_refused(searcher: Searcher) -> None:
    config = SearchConfig(Budget(rollouts=99))
    with pytest.raises(ValueError, match=r"the score _not_a_number of node \d+ is NaN; return -ma"):
        run_search(problems(), searcher, _two_ways(0.5), MathVerifier(), config)


def test_scores_of_the_question() -> None:
    tree = _judged(None)
    assert score_node(mean_prob, tree, 0) == 1.0
    assert mean_prob(tree, 1) == pytest.approx(math.exp(-0.5))
