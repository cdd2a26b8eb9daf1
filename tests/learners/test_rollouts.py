"""Which rollouts a learner may learn from, and what is said of the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt.interfaces import State, Step, Verdict, Verifier
from rftt.learners.credit.outcome import group_outcome
from rftt.learners.credit.policy_weighted import policy_weighted
from rftt.learners.rollouts.judged import (
    end_kind,
    equal_outcomes,
    judged_rollouts,
    rollout_statistics,
)
from rftt.problems.problem import Problem
from rftt.search.budget import Budget, SearchConfig
from rftt.search.engine.engine import run_search
from rftt.search.scores import verifier_score
from rftt.search.strategies.levels.beam import BeamSearch
from rftt.search.tree.tree import SearchTree
from tests.learners.tabular_gradient import GRAMMAR, random_problem, tree_of


def _ends(*ends: tuple[str, Verdict | None, int]) -> SearchTree:
    """Return a tree of one step a path. What it is: "whole", "truncated" or "midway"; its verdict; the
    rollouts that ended there."""
    tree = SearchTree(Problem("q", "q"), GRAMMAR)
    for what, verdict, count in ends:
        step = Step(
            "a" if what == "midway" else "end",
            "so \\boxed{1}",
            (1, 2, 3),
            (-1.0, -1.0, 0.0),
            (True, True, False),
            terminal=what != "midway",
            truncated=what == "truncated",
        )
        node = tree.attach(0, step)
        tree.verdict[node] = verdict
        for _ in range(count):
            tree.backup(node, None)
    return tree


RIGHT, WRONG, ABSTAINED = Verdict(1.0, "1"), Verdict(0.0), Verdict(None)
MIXED = _ends(
    ("whole", RIGHT, 1),
    ("truncated", RIGHT, 1),
    ("midway", RIGHT, 1),
    ("whole", ABSTAINED, 2),
    ("whole", None, 1),
    ("whole", WRONG, 3),
    ("truncated", ABSTAINED, 1),
    ("midway", None, 1),
    ("whole", RIGHT, 0),
)


def test_only_whole_solutions_with_a_score_are_learned_from() -> None:
    found, none = judged_rollouts([MIXED, _ends(("truncated", RIGHT, 1))])
    assert [(r.end, r.count, r.score) for r in found] == [(1, 1, 1.0), (6, 3, 0.0)]
    assert found[0].verdict is RIGHT
    assert found[0].tree is MIXED
    assert (found[0].path, found[0].tokens) == ([1], 2)
    assert none == []
    for credit in (group_outcome, policy_weighted):
        # A right box in half a sentence is no success, and a path judged midway no failure.
        assert [path.end for path in credit([MIXED])[0]] == [1, 6]


def test_ends_are_of_five_kinds() -> None:
    kinds = [end_kind(MIXED, node) for node in range(1, 9)]
    assert kinds == [
        "judged", "truncated", "partial", "abstained", "unjudged", "judged", "truncated", "unjudged",
    ]  # fmt: skip


def test_what_is_left_out_is_logged_with_counts_by_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "rftt.learners.rollouts.judged"):
        judged_rollouts([MIXED])
        (record,) = caplog.records
        assert record.getMessage() == (
            "left out 7 of 11 rollouts: 2 truncated, 1 stopped midway, 2 on which the verifier "
            "abstained, 2 without a verdict"
        )
        assert record.levelno == logging.WARNING
        caplog.clear()
        judged_rollouts([_ends(("whole", RIGHT, 1), ("truncated", None, 1))])
        assert [r.levelno for r in caplog.records] == [logging.INFO]
        caplog.clear()
        judged_rollouts([_ends(("whole", RIGHT, 1))])
        judged_rollouts([MIXED], log=False)
        assert not caplog.records


class _ScoresEveryStep(Verifier):
    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [Verdict(float(state.last == "end")) for state in states]


def test_paths_that_a_beam_judged_midway_are_no_failures() -> None:
    problem = random_problem(0)
    searcher = BeamSearch(width=2, branching=3, score=verifier_score, scores_partial=True)
    config = SearchConfig(Budget())
    (tree,) = run_search(problem.problems(), searcher, problem.policy, _ScoresEveryStep(), config)
    scored = [end for end in tree.ends() if tree.verdict[end] is not None]
    (found,) = judged_rollouts([tree])
    assert 0 < len(found) < len(scored)
    assert {rollout.score for rollout in found} == {1.0}
    sums = rollout_statistics([tree])
    assert sums["partial"] == len(scored) - len(found)
    assert sums["score_sum"] == sums["judged"] == len(found)


def test_statistics_by_hand() -> None:
    assert rollout_statistics([MIXED]) == {
        "rollouts": 11, "judged": 4, "truncated": 2, "partial": 1, "abstained": 2, "unjudged": 2,
        "score_sum": 1.0, "length_sum": 8, "steps": 9, "tokens": 18,
        "function/a": 2, "function/b": 0, "function/end": 7,
    }  # fmt: skip
    thrice = rollout_statistics([_ends(("whole", Verdict(0.5), 3))])
    assert (thrice["judged"], thrice["score_sum"], thrice["length_sum"]) == (3, 1.5, 6)
    # A step that rollouts share is used once, but is part of the length of each.
    sums = rollout_statistics([tree_of([[1.0, 0.0]])])
    assert (sums["steps"], sums["tokens"], sums["length_sum"], sums["function/a"]) == (3, 3, 4, 1)


outcomes = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=5)


@given(st.lists(outcomes, max_size=4))
def test_statistics_add_up(groups: list[list[float]]) -> None:
    trees = [tree_of(group) for group in groups]
    one_by_one = [rollout_statistics([tree]) for tree in trees]
    for name, value in rollout_statistics(trees).items():
        assert value == sum(each[name] for each in one_by_one)


@given(outcomes)
def test_groups_are_equal_by_outcome(scores: list[float]) -> None:
    (rollouts,) = judged_rollouts([tree_of(scores)])
    assert equal_outcomes(rollouts) == (len(set(scores)) == 1)


def test_groups_are_equal_whatever_their_steps_scored_and_up_to_rounding() -> None:
    tree = tree_of([0.0, 0.1 + 0.2 - 0.3])
    for end, step_score in zip(tree.ends(), (0.9, 0.1), strict=True):
        verdict = tree.verdict[end]
        assert verdict is not None
        tree.verdict[end] = Verdict(verdict.score, step_scores=(step_score,))
    (rollouts,) = judged_rollouts([tree])
    assert rollouts[0].score != rollouts[1].score
    assert equal_outcomes(rollouts)
    assert equal_outcomes([])
