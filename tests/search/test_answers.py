"""Choosing an answer, and a second opinion on it."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import (
    BeamSearch,
    BestOfN,
    Budget,
    Grammar,
    MathVerifier,
    Problem,
    SearchConfig,
    SearchTree,
    State,
    Step,
    Verdict,
    majority,
    run_search,
)  # fmt: skip
from rftt.search.answers import unanswered
from rftt.search.answers.consistency import mutually_consistent
from rftt.search.answers.voting import (
    answered,
    best,
    group_answers,
    most_valuable,
    same_text,
    weighted,
)
from rftt.search.scores import mean_value
from rftt.testing.finite.tabular import Reply, TabularPolicy
from tests.strategies import problems


def _step(function: str, text: str, terminal: bool = False) -> Step:
    return Step(function, text, (1,), (-0.1,), (True,), terminal=terminal)


def test_most_valuable_follows_the_values() -> None:
    tree = SearchTree(Problem("p", "?"), Grammar.default())
    poor = tree.attach(0, _step("next_step", "a"))
    good = tree.attach(0, _step("next_step", "b"))
    for parent, answer, score in ((poor, "7", 1.0), (poor, "8", 0.0), (good, "9", 0.9)):
        end = tree.attach(parent, _step("output", answer, terminal=True))
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
        [Problem("p", "?")], BestOfN(), TabularPolicy(grammar, _table("2")), MathVerifier(),
        SearchConfig(Budget(rollouts=30)),
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


def _voted(answers: list[str]) -> SearchTree:
    tree = SearchTree(Problem("p", "?", "7"), Grammar.default())
    for number, answer in enumerate(answers):
        node = tree.attach(0, _step("next_step", str(number), terminal=True))
        tree.verdict[node] = Verdict(None, answer)
        tree.backup(node, None)
    return tree


def test_equal_answers_vote_together_without_gold() -> None:
    tree = _voted(["3", "1/2", "3", "0.5", "\\frac{2}{4}"])
    assert majority(tree) == "3"
    assert majority(tree, MathVerifier().equivalent) == "1/2", "as it was first written"


@given(st.lists(st.integers(0, 20), max_size=12))
def test_groups_are_the_classes_of_the_equivalence(numbers: list[int]) -> None:
    tree = _voted([str(number) for number in numbers])

    def same_remainder(a: str, b: str) -> bool:
        return int(a) % 3 == int(b) % 3

    groups = group_answers(answered(tree), same_remainder)
    assert sorted(pair for group in groups for pair in group) == sorted(answered(tree))
    assert [int(group[0][1]) % 3 for group in groups] == list(dict.fromkeys(n % 3 for n in numbers))
    assert all(same_remainder(group[0][1], answer) for group in groups for _, answer in group)
    sizes = [len(group) for group in groups]
    expected = groups[sizes.index(max(sizes))][0][1] if groups else None
    assert majority(tree, same_remainder) == expected


def test_what_was_not_judged_does_not_vote() -> None:
    tree = _voted(["1", "2", "1"])
    for number in range(3):
        tree.backup(tree.attach(0, _step("next_step", f"cut {number}", terminal=True)), None)
    assert [answer for _, answer in answered(tree)] == ["1", "2", "1"]
    assert majority(tree) == "1"


def test_only_finished_solutions_vote() -> None:
    tree = _voted(["1"])
    cut = Step("next_step", "\\boxed{3", (1,), (-0.1,), (True,), terminal=True, truncated=True)
    judged = {tree.attach(0, _step("next_step", "as \\boxed{2}")): "2", tree.attach(0, cut): "3"}
    for node, answer in judged.items():
        tree.verdict[node] = Verdict(1.0, answer)
        for _ in range(3):
            tree.backup(node, 1.0)
    assert list(answered(tree)) == [(1, "1")]
    assert majority(tree) == best(tree) == weighted(tree, mean_value) == "1"
    assert most_valuable(tree) is None, "the values lead to a step on the way"


class _JudgesAll(MathVerifier):
    """Finds an answer in the last step, whatever it is."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [Verdict(1.0, state.steps[-1].text) for state in states]


def test_a_step_that_was_judged_on_the_way_does_not_vote() -> None:
    searcher = BeamSearch(width=4, branching=4, scores_partial=True)
    (tree,) = run_search(
        [Problem("p", "?")], searcher, TabularPolicy(Grammar.default(), _table("2")), _JudgesAll(),
        SearchConfig(Budget(rollouts=20)),
    )  # fmt: skip
    votes = Counter(answer for _, answer in answered(tree))
    assert {verdict.answer for verdict in tree.verdict if verdict} >= {"wrong", "right"}
    assert set(votes) <= {"\\boxed{1}", "\\boxed{2}", "\\boxed{3}"}


def test_each_choice_returns_the_first_text_of_its_group() -> None:
    tree = _voted(["0.5", "3", "1/2"])
    tree.verdict[3] = Verdict(1.0, "1/2")
    tree.backup(3, 1.0)
    equivalent = MathVerifier().equivalent
    assert best(tree) == most_valuable(tree) == "1/2"
    assert best(tree, equivalent) == most_valuable(tree, equivalent) == "0.5"
    assert weighted(tree, lambda _, node: float(node == 2), equivalent) == "3"


class _Counts(MathVerifier):
    calls = 0

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        type(self).calls += 1
        return super().judge(states)


def test_a_second_opinion_takes_one_verifier_call_and_goes_by_equivalence() -> None:
    policy = TabularPolicy(Grammar.default(), _table("1/2"))
    trees = run_search(
        [Problem(f"p{i}", "?") for i in range(4)], BestOfN(), policy, MathVerifier(),
        SearchConfig(Budget(rollouts=20)),
    )  # fmt: skip
    table = _table("0.5") | {("wrong",): [Reply("output", "\\boxed{5}", 1.0)]}
    assert {majority(tree) for tree in trees} == {"1"}
    second = TabularPolicy(Grammar.default(), table)
    assert mutually_consistent(trees, second, _Counts()) == ["1/2"] * 4
    assert _Counts.calls == 1


def test_an_undecided_comparison_keeps_answers_apart() -> None:
    tree = _voted(["a", "b", "b"])
    assert weighted(tree, lambda _, node: 1.0, lambda a, b: None) == "b"
    assert same_text(" a", "a ")
    assert best(tree) == "a"


def test_of_many_searches_without_an_answer_few_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of them was: a process that runs thousands had thousands of warnings."""
    monkeypatch.setattr(unanswered, "_searches", itertools.count(1))
    wordless = TabularPolicy(Grammar.default(), {(): [Reply("next_step", "hm", 1.0)]})
    at = []
    for number in range(1, 1002):
        # Searches that are silenced do not count.
        with caplog.at_level(logging.ERROR if number == 7 else logging.WARNING, unanswered.__name__):
            run_search(problems(), BestOfN(), wordless, MathVerifier(), SearchConfig(Budget(rollouts=2)))
        at += [(number, record.getMessage().partition("so far: ")[2]) for record in caplog.records]
        caplog.clear()
    assert at == [(1, _next(1)), (11, _next(10)), (101, _next(100)), (1001, _next(1000))]


def _next(count: int) -> str:
    return f"{count}; the next warning is at {10 * count}"
