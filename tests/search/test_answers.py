"""Choosing an answer, and a second opinion on it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import (
    BestOfN,
    Budget,
    Grammar,
    MathVerifier,
    Problem,
    Reply,
    SearchTree,
    Segment,
    TabularPolicy,
    UncertaintyForking,
    Verdict,
    majority,
    most_valuable,
    mutually_consistent,
    run_search,
)  # fmt: skip
from tests.models import functional_policy


def _step(function: str, text: str, is_final: bool = False) -> Segment:
    return Segment(function, text, (1,), (-0.1,), (True,), is_final=is_final)


def test_most_valuable_follows_the_values() -> None:
    tree = SearchTree(Problem("p", "?"), Grammar.default())
    poor = tree.attach(0, _step("next_step", "a"))
    good = tree.attach(0, _step("next_step", "b"))
    for parent, answer, score in ((poor, "7", 1.0), (poor, "8", 0.0), (good, "9", 0.9)):
        end = tree.attach(parent, _step("output", answer, is_final=True))
        tree.verdict[end] = Verdict(score, answer)
        tree.backup(end, score)
    # The mean below "a" is 0.5, below "b" 0.9, although the single best score is below "a".
    assert most_valuable(tree) == "9"
    assert most_valuable(SearchTree(Problem("p", "?"), Grammar.default())) is None


def _table(second: str) -> dict[tuple[str, ...], list[Reply]]:
    """Two ways; the second policy comes to its own end after ``right``."""
    return {
        (): [Reply("next_step", "wrong", 0.7), Reply("next_step", "right", 0.3)],
        ("wrong",): [Reply("output", "\\boxed{1}", 0.999), Reply("output", "\\boxed{3}", 0.001)],
        ("right",): [Reply("output", f"\\boxed{{{second}}}", 1.0)],
    }


def test_a_second_policy_can_overturn_the_vote() -> None:
    grammar = Grammar.default()
    (tree,) = run_search(
        [Problem("p", "?")], BestOfN(30), TabularPolicy(grammar, _table("2")), MathVerifier(),
        budget=Budget(rollouts=30),
    )  # fmt: skip
    assert majority(tree) == "1"
    disagrees = _table("2") | {("wrong",): [Reply("output", "\\boxed{5}", 1.0)]}
    second = TabularPolicy(grammar, disagrees)
    assert mutually_consistent([tree], second, MathVerifier()) == ["2"]
    nowhere = disagrees | {("right",): [Reply("output", "\\boxed{6}", 1.0)]}
    second = TabularPolicy(grammar, nowhere)
    assert mutually_consistent([tree], second, MathVerifier()) == ["1"], "the plain vote decides"


def test_the_share_that_is_shown_is_checked() -> None:
    policy = TabularPolicy(Grammar.default(), _table("2"))
    with pytest.raises(ValueError, match="kept"):
        mutually_consistent([], policy, MathVerifier(), kept=1.0)


@given(st.integers(0, 5))
def test_forks_keep_what_came_before_the_fork(seed: int) -> None:
    (tree,) = run_search(
        [Problem("p", "1+1", "2")], UncertaintyForking(roots=2, at_once=3, most=14),
        functional_policy(seed=1), MathVerifier(), budget=Budget(rollouts=14), seed=seed, max_tokens=24,
    )  # fmt: skip
    forked = 0
    for node in range(1, len(tree)):
        segment = tree.segment[node]
        assert segment is not None
        kept = segment.chosen.index(True) if True in segment.chosen else len(segment.ids)
        if kept:
            forked += 1
            assert segment.chosen == (False,) * kept + (True,) * (len(segment.ids) - kept)
            siblings = [tree.segment[n] for n in tree.children(tree.parent[node]) if n < node]
            assert any(s is not None and s.ids[:kept] == segment.ids[:kept] for s in siblings)
    assert forked > 0
