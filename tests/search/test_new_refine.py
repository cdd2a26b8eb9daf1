"""Verify, then refine: which answers are in doubt, and the way back from them."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftt import (
    Budget,
    Grammar,
    MathVerifier,
    Problem,
    SearchConfig,
    SearchTree,
    Step,
    Verdict,
    majority,
    run_search,
)
from rftt.search.answers.voting import best
from rftt.search.strategies import Outvoted, ScoredBelow, VerifyThenRefine
from rftt.search.strategies.refine import Doubt
from rftt.testing.finite.tabular import Reply, TabularPolicy

WRONG = ("3+4 is 7, times 5 is 35", "35")
TABLE = {
    (): [Reply("next_step", WRONG[0], 1.0)],
    WRONG[:1]: [Reply("direct_answer", "35", 1.0)],
    WRONG: [Reply("output", "\\boxed{35}", 0.999), Reply("verify", "4*5 comes first", 0.001)],
    (*WRONG, "4*5 comes first"): [Reply("refine", "3+20", 1.0)],
    (*WRONG, "4*5 comes first", "3+20"): [Reply("output", "\\boxed{23}", 1.0)],
}


def _search(
    table: dict[tuple[str, ...], list[Reply]], doubt: Doubt, *, max_depth: int = 8, **limits: int
) -> SearchTree:
    searcher = VerifyThenRefine(doubt=doubt, **limits)
    (tree,) = run_search(
        [Problem("p", "3+4*5", "23")], searcher, TabularPolicy(Grammar.default(), table),
        MathVerifier(), SearchConfig(Budget(), max_depth=max_depth),
    )  # fmt: skip
    return tree


def _functions(tree: SearchTree, node: int) -> list[str]:
    return [step.function for step in tree.state(node).steps]


def test_a_wrong_answer_is_checked_and_mended() -> None:
    """The solution's answer is wrong. From the step before its output a check is forced, and from that
    the mending, which goes on to the right answer; that one is not in doubt."""
    tree = _search(TABLE, ScoredBelow(), samples=1)
    assert tree.rollouts == 3
    wrong, right = (node for node in range(len(tree)) if tree.is_terminal(node))
    assert _functions(tree, wrong) == ["next_step", "direct_answer", "output"]
    assert _functions(tree, right) == ["next_step", "direct_answer", "verify", "refine", "output"]
    assert best(tree) == "23"
    # The check is a rollout of one step, which is not judged.
    assert [tree.value(node) for node in (wrong, right)] == [0.0, 1.0]
    assert tree.value_count[0] == 2


def test_what_is_not_in_doubt_stays_as_it_is() -> None:
    assert _search(TABLE, ScoredBelow(0.0), samples=2).rollouts == 2
    assert _search(TABLE, Outvoted(), samples=3).rollouts == 3, "three equal answers"


def test_an_answer_without_a_score_is_not_in_doubt() -> None:
    (tree,) = run_search(
        [Problem("p", "3+4*5")], VerifyThenRefine(samples=2), TabularPolicy(Grammar.default(), TABLE),
        MathVerifier(), SearchConfig(Budget()),
    )  # fmt: skip
    assert tree.verdict[3] is not None
    assert tree.verdict[3].score is None
    assert tree.rollouts == 2


@pytest.mark.parametrize("refinements", [1, 2, 3])
def test_a_solution_is_refined_as_often_as_it_may(refinements: int) -> None:
    """Nothing ever helps. A check follows the step before the output, which is the mending."""
    table: dict[tuple[str, ...], list[Reply]] = {}
    path: tuple[str, ...] = ()
    for number in range(4):
        first = "next_step" if not path else "refine"
        table[path] = [Reply(first, f"step {number}", 1.0)]
        path = (*path, f"step {number}")
        check = Reply("verify", f"check {number}", 1e-6)
        table[path] = [Reply("output", "\\boxed{0}", 1 - 1e-6), check]
        path = (*path, f"check {number}")
    tree = _search(table, ScoredBelow(), samples=1, refinements=refinements, max_depth=12)
    assert tree.rollouts == 1 + 2 * refinements
    last = max(range(len(tree)), key=tree.depth.__getitem__)
    rounds = ["verify", "refine"] * refinements
    assert _functions(tree, last) == ["next_step", *rounds, "output"]


def test_the_minority_is_in_doubt() -> None:
    table = {
        (): [Reply("next_step", "good", 0.7), Reply("next_step", "bad", 0.3)],
        ("good",): [Reply("output", "\\boxed{23}", 1.0)],
        ("bad",): [Reply("output", "\\boxed{35}", 0.999), Reply("verify", "look", 0.001)],
        ("bad", "look"): [Reply("refine", "again", 1.0)],
        ("bad", "look", "again"): [Reply("output", "\\boxed{23}", 1.0)],
    }
    tree = _search(table, Outvoted(), samples=9)
    first = [tree.text(node) for node in tree.children[0]]
    assert 0 < first.count("bad") < 4
    assert tree.rollouts == 9 + 2 * first.count("bad")
    assert majority(tree) == "23"
    checked = {tree.text(tree.parent[n]) for n in range(1, len(tree)) if tree.text(n) == "look"}
    assert checked == {"bad"}


def test_the_share_of_votes_by_hand() -> None:
    """Answers 1, 1, 2 and none: of three votes 1 has two thirds, 2 one third."""
    tree = SearchTree(Problem("p", "?"), Grammar.default())
    step = Step("output", "", (), (), (), terminal=True)
    way = tree.attach(0, Step("next_step", "", (), (), (), terminal=False))
    for answer in ("1", "1", "2", None):
        end = tree.attach(way, step)
        tree.verdict[end] = Verdict(None, answer)
        tree.backup(end, None)
    by_share = {0.3: [4], 1 / 3: [4], 0.5: [3, 4], 2 / 3: [3, 4], 0.7: [1, 2, 3, 4]}
    for share, doubted in by_share.items():
        assert [place for place in range(1, 5) if Outvoted(share)(tree, place + 1)] == doubted


NARROW = {
    (): [Reply("next_step", "s", 1.0)],
    ("s",): [Reply("direct_answer", "d", 0.999), Reply("verify", "v", 0.001)],
    ("s", "d"): [Reply("output", "\\boxed{35}", 1.0)],
    ("s", "v"): [Reply("refine", "r", 1.0)],
}


def test_the_check_follows_the_nearest_step_that_has_room_for_it() -> None:
    """After direct_answer, two steps are more than the depth limit allows; after the step before not."""
    tree = _search(NARROW, ScoredBelow(), samples=1, max_depth=3, refinements=1)
    deepest = [_functions(tree, node) for node in range(len(tree)) if tree.depth[node] == 3]
    assert deepest == [["next_step", "direct_answer", "output"], ["next_step", "verify", "refine"]]


def test_what_cannot_be_checked_or_mended_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def told() -> list[str]:
        return [record.message for record in caplog.records if record.name.endswith(".refine")]

    with caplog.at_level(logging.WARNING):
        _search(NARROW, ScoredBelow(), samples=1, max_depth=3, refinements=1)
        assert told() == []
        tree = _search({(): [Reply("next_step", "x", 1.0)]}, ScoredBelow(), samples=2)
        assert tree.rollouts == 2
        assert len(told()) == 2
        expected = "'verify' may follow no step on its path with room for two steps more"
        assert expected in told()[0]
        # The table has no check, so the policy ends the solution with an empty one.
        tree = _search(NARROW, ScoredBelow(), samples=1)
        assert tree.rollouts == 2
    assert "the check at node 4 of 'p' was cut short" in told()[2]


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 30))
def test_a_check_is_always_followed_by_a_mending(samples: int, refinements: int, seed: int) -> None:
    table = dict(TABLE)
    table[()] = [Reply("next_step", WRONG[0], 0.5), Reply("subquestion", "what is 4*5?", 0.5)]
    table["what is 4*5?",] = [Reply("direct_answer", "23", 1.0)]
    table["what is 4*5?", "23"] = [Reply("output", "\\boxed{23}", 1.0)]
    searcher = VerifyThenRefine(samples=samples, refinements=refinements)
    (tree,) = run_search(
        [Problem("p", "3+4*5", "23")], searcher, TabularPolicy(Grammar.default(), table),
        MathVerifier(), SearchConfig(Budget(), seed=seed, max_depth=8),
    )  # fmt: skip
    wrong = sum(tree.text(node) == "\\boxed{35}" for node in range(len(tree)))
    assert tree.rollouts == samples + 2 * wrong
    for node in range(1, len(tree)):
        if _functions(tree, node)[-1] == "verify":
            assert [_functions(tree, child)[-1] for child in tree.children[node]] == ["refine"]
