"""Gumbel MCTS against the formulas of its paper, computed by other means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import (
    Budget,
    GenerationRequest,
    Grammar,
    MathVerifier,
    Policy,
    Problem,
    SearchConfig,
    SearchTree,
    State,
    Step,
    Verdict,
    Verifier,
    run_search,
)
from rftt.search.strategies.gumbel import GumbelMCTS, best_child, improved_policy
from rftt.search.strategies.selection import mixed_value, qtransform_completed_by_mix_value
from rftt.search.tree.merge import commit_to
from rftt.testing.finite.tabular import Reply, TabularPolicy
from tests.strategies import policies, problems

NAMES = ("clarify", "analysis", "subquestion", "next_step")


def _logits_in_numpy(
    raw: float, priors: Sequence[float], visits: Sequence[int], values: Sequence[float | None]
) -> np.ndarray:
    """Compute log prior + sigma(completed value) as in appendix D and equation 8, with arrays."""
    prior, count = np.array(priors), np.array(visits, dtype=float)
    known = np.array([value is not None for value in values])
    q = np.array([0.0 if value is None else value for value in values])
    mixed = raw
    if known.any():
        total = count[known].sum()
        mixed = (raw + total * np.average(q[known], weights=prior[known])) / (1 + total)
    completed = np.where(known, q, mixed)
    completed = (completed - completed.min()) / max(np.ptp(completed), 1e-8)
    return np.asarray(np.log(prior) + 0.1 * (50 + count.max()) * completed)


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def _tree(
    prior: Mapping[str, float], scores: Mapping[str, Sequence[float | None]], discount: float
) -> SearchTree:
    """Build a tree with one step for each function that has scores, and rollouts with these scores that
    end there."""
    tree = SearchTree(Problem("p", "?", "1"), Grammar.default())
    tree.prior[0] = {name: math.log(p) for name, p in prior.items()}
    for name, rollouts in scores.items():
        child = tree.attach(0, Step(name, name, (1,), (-0.5,), (True,), terminal=False))
        for score in rollouts:
            tree.backup(child, score, discount=discount)
    return tree


SCORES = st.none() | st.floats(-1, 1).map(lambda score: round(score, 3))


@given(
    st.lists(st.integers(1, 9), min_size=4, max_size=4),
    st.lists(st.lists(SCORES, max_size=4), min_size=4, max_size=4),
    st.sampled_from([1.0, 0.9, 0.5]),
)
def test_the_improved_policy_is_that_of_the_paper(
    weights: list[int], rollouts: list[list[float | None]], discount: float
) -> None:
    prior = {name: weight / sum(weights) for name, weight in zip(NAMES, weights, strict=True)}
    scores = {name: each for name, each in zip(NAMES, rollouts, strict=True) if each}
    tree = _tree(prior, scores, discount)
    scored = [[score for score in each if score is not None] for each in rollouts]
    values = [discount * float(np.mean(each)) if each else None for each in scored]
    everything = [discount * score for each in scored for score in each]
    raw = float(np.mean(everything)) if everything else 0.0
    expected = _softmax(_logits_in_numpy(raw, list(prior.values()), [*map(len, rollouts)], values))
    found = improved_policy(tree, 0, GumbelMCTS(discount=discount))
    assert tuple(found) == NAMES
    # Rounding is divided by the least range, 1e-8, where all values are equal.
    assert list(found.values()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_where_all_actions_were_visited_the_nodes_own_value_plays_no_part() -> None:
    prior = dict.fromkeys(NAMES, 0.25)
    scores = {"clarify": [1.0], "analysis": [0.8], "subquestion": [0.9], "next_step": [0.85]}
    tree = _tree(prior, scores, discount=0.5)
    # From .8 to 1: 1, 0, 1/2 and 1/4 of the scale, which is .1 * (50 + 1).
    weights = [math.exp(5.1 * share) for share in (1.0, 0.0, 0.5, 0.25)]
    found = improved_policy(tree, 0, GumbelMCTS(discount=0.5))
    assert list(found.values()) == pytest.approx([w / sum(weights) for w in weights], abs=1e-12)


def test_a_value_is_discounted_before_it_completes_the_others() -> None:
    prior = {"clarify": 0.5, "analysis": 0.25, "next_step": 0.25}
    tree = _tree(prior, {"clarify": [1.0], "analysis": [0.0]}, discount=0.5)
    # q is .5 and 0, the node's own mean .25, and the prior-weighted mean of the tried .5 * 2/3 = 1/3:
    # next_step gets (1/4 + 2 * 1/3) / 3 = 11/36, which is 11/18 of the range.
    logits = [math.log(0.5) + 5.1, math.log(0.25), math.log(0.25) + 5.1 * 11 / 18]
    total = sum(map(math.exp, logits))
    found = improved_policy(tree, 0, GumbelMCTS(discount=0.5))
    assert list(found.values()) == pytest.approx([math.exp(x) / total for x in logits], abs=1e-12)


def test_what_is_exhausted_counts_in_the_improved_policy() -> None:
    prior = {"clarify": 0.5, "analysis": 0.5}
    tree = _tree(prior, {"clarify": [1.0], "analysis": [0.0]}, discount=1.0)
    before = improved_policy(tree, 0, GumbelMCTS())
    tree.mark_exhausted(tree.children[0][0])
    assert improved_policy(tree, 0, GumbelMCTS()) == before
    assert before["clarify"] == pytest.approx(1 / (1 + math.exp(-5.1)))


def test_mixed_value() -> None:
    # (0.5 + 6 * (0.2 * 1 + 0.3 * 0) / 0.5) / (1 + 6) = (0.5 + 2.4) / 7
    assert mixed_value(0.5, [0.2, 0.3, 0.5], [4, 2, 0], [1.0, 0.0, None]) == pytest.approx(2.9 / 7)
    assert mixed_value(0.5, [0.4, 0.6], [0, 0], [None, None]) == 0.5
    # Only functions that the prior rules out were tried: the mean of them, and the node's own.
    assert mixed_value(0.5, [0.0, 0.0, 1.0], [1, 1, 0], [1.0, 0.0, None]) == pytest.approx(0.5)
    # A visit without a score says nothing: (0.5 + 2 * 1) / 3.
    assert mixed_value(0.5, [0.5, 0.5], [2, 7], [1.0, None]) == pytest.approx(2.5 / 3)


@given(
    st.floats(-3, 3),
    st.lists(st.integers(1, 9), min_size=3, max_size=3),
    st.lists(st.integers(0, 9), min_size=3, max_size=3),
    st.lists(st.floats(-1, 1).map(lambda q: round(q, 3)), min_size=3, max_size=3),
)
def test_completed_values_are_those_of_mctx(
    raw: float, weights: list[int], visits: list[int], scores: list[float]
) -> None:
    priors = [weight / sum(weights) for weight in weights]
    values = [score if count else None for score, count in zip(scores, visits, strict=True)]
    expected = _logits_in_numpy(raw, priors, visits, values) - np.log(priors)
    found = qtransform_completed_by_mix_value(raw, priors, visits, values)
    assert found == pytest.approx(expected.tolist(), abs=1e-6)
    if all(visits):
        another = qtransform_completed_by_mix_value(raw + 100, priors, visits, values)
        assert found == another, "the node's own value is not needed"


def test_completed_values_of_equals_are_zero() -> None:
    assert qtransform_completed_by_mix_value(0.3, [0.5, 0.5], [1, 1], [0.3, 0.3]) == [0.0, 0.0]


THREE_WAYS = TabularPolicy(
    Grammar.default(),
    {
        (): [Reply("clarify", "a", 0.6), Reply("analysis", "b", 0.2), Reply("next_step", "c", 0.2)],
        **{(way,): [Reply("next_step", f"{way}{i}", 0.125) for i in range(8)] for way in "abc"},
        **{
            (way, f"{way}{i}"): [Reply("output", f"\\boxed{{{int(way == 'c')}}}", 1.0)]
            for way in "abc"
            for i in range(8)
        },
    },
)


class _Endless(Policy):
    """Samples any legal function after any other, so that hardly anything is exhausted."""

    grammar = Grammar.default()

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        legal = [self.grammar.legal(state.last) for state in states]
        return [{name: -math.log(len(names)) for name in names} for names in legal]

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        return [self._complete(request) for request in requests]

    def _complete(self, request: GenerationRequest) -> list[Step]:
        rng, last = Random(request.seed), request.state.last
        steps: list[Step] = []
        while len(steps) < request.max_steps and not (steps and steps[-1].terminal):
            last = (not steps and request.function) or rng.choice(self.grammar.legal(last))
            steps.append(Step(last, last, (1,), (-1.0,), (True,), self.grammar.is_terminal(last)))
        return steps


@pytest.mark.parametrize(
    ("considered", "rollouts", "visits"),
    [
        # Two phases of eight: 2 visits for each of four functions, then 4 for each of two.
        (4, 16, [2, 2, 6, 6]),
        # One phase: 8 for each of the two that are considered.
        (2, 16, [0, 0, 8, 8]),
        # Two phases of five: 1 for each of four, then 2 for each of two, and so on to the end.
        (4, 10, [1, 1, 4, 4]),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_simulations_at_the_root_follow_sequential_halving(
    considered: int, rollouts: int, visits: list[int], seed: int
) -> None:
    searcher = GumbelMCTS(max_num_considered_actions=considered)
    config = SearchConfig(Budget(rollouts=rollouts), seed=seed)
    (tree,) = run_search(problems(1), searcher, _Endless(), MathVerifier(), config)
    found = [tree.visits[child] for child in tree.children[0]]
    assert sorted([0] * (4 - len(found)) + found) == visits
    assert tree.visits[best_child(tree, searcher) or 0] == max(visits)


def test_the_chosen_child_leads_to_the_best_solution() -> None:
    searcher, right = GumbelMCTS(discount=0.9), 0
    for seed in range(50):
        config = SearchConfig(Budget(rollouts=12), seed=seed)
        (tree,) = run_search(problems(1), searcher, THREE_WAYS, MathVerifier(), config)
        chosen = best_child(tree, searcher)
        assert chosen is not None
        right += tree.text(chosen) == "c"
        assert improved_policy(tree, 0, searcher)["next_step"] > 0.9
    # Noise decides otherwise where it is larger by 5.1, in about 1 of 100.
    assert right >= 48
    with pytest.raises(ValueError, match="was not searched by GumbelMCTS below node 1"):
        best_child(commit_to(tree, chosen, discount=0.9), searcher)


class _EndsAtOnce(_Endless):
    """Has a first step that is a solution already."""

    def _complete(self, request: GenerationRequest) -> list[Step]:
        if request.function == "analysis" and not request.state.steps:
            return [Step("analysis", "\\boxed{1}", (1,), (-1.0,), (True,), terminal=True)]
        return super()._complete(request)


class _Boxed(Verifier):
    """Takes a solution for right that holds a box."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [Verdict(float("boxed" in state.steps[-1].text)) for state in states]


def test_what_could_not_be_visited_more_often_can_be_chosen() -> None:
    searcher, chosen = GumbelMCTS(), []
    for seed in range(20):
        config = SearchConfig(Budget(rollouts=16), seed=seed)
        (tree,) = run_search(problems(1), searcher, _EndsAtOnce(), _Boxed(), config)
        child = best_child(tree, searcher)
        assert child is not None
        assert max(tree.visits[other] for other in tree.children[0]) > 1
        chosen.append(tree.text(child))
    assert chosen.count("\\boxed{1}") >= 19


@given(policies(), st.integers(1, 12), st.integers(0, 9))
def test_there_is_a_choice_wherever_there_is_a_visit(
    policy: TabularPolicy, rollouts: int, seed: int
) -> None:
    searcher = GumbelMCTS(max_num_considered_actions=2)
    config = SearchConfig(Budget(rollouts=rollouts), seed=seed, max_depth=6)
    (tree,) = run_search(problems(1), searcher, policy, MathVerifier(), config)
    assert best_child(tree, searcher) in tree.children[0]
    for node in range(len(tree)):
        if tree.prior[node] is not None:
            assert math.isclose(sum(improved_policy(tree, node, searcher).values()), 1)
        else:
            with pytest.raises(ValueError, match=f"node {node} has no prior"):
                improved_policy(tree, node, searcher)
