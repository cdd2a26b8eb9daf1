"""Accuracy by any verifier, without a look at gold answers until the marking."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from fractions import Fraction
from math import comb
from pathlib import Path
from typing import ClassVar

import pytest
from attrs import evolve, frozen

from rftt import (
    MCTS,
    BestOfN,
    Budget,
    GenerationRequest,
    Grammar,
    MathVerifier,
    Problem,
    SearchConfig,
    SearchTree,
    State,
    Step,
    Verdict,
    Verifier,
    evaluate,
)
from rftt.evaluation.results import evaluation_from_json, evaluation_to_json
from rftt.search.answers.voting import Equivalence, answered, best, majority
from rftt.testing.finite.tabular import Reply, TabularPolicy

POLICY = TabularPolicy(Grammar.default(), {(): [Reply("next_step", "the answer is \\boxed{1/2}", 1.0)]})
PROBLEMS = [Problem("a", "?", "1/2"), Problem("b", "?", "0.5"), Problem("c", "?", "2")]
CONFIG = SearchConfig(Budget(rollouts=3))

DICE = TabularPolicy(
    Grammar.default(),
    {
        (): [
            Reply("next_step", "so \\boxed{1}", 0.4),
            Reply("next_step", "so \\boxed{2}", 0.3),
            Reply("next_step", "so \\boxed{3}", 0.2),
            Reply("next_step", "no idea", 0.1),
        ]
    },
)
MANY = [Problem(f"p{i}", "?", str(1 + i % 2), {"level": i % 3}) for i in range(12)]


@frozen
class _LastWord(Verifier):
    """A user's own verifier: nothing but ``judge``."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        assert all(state.problem.answer is None for state in states), "gold answers are taken away"
        assert all(not state.problem.metadata for state in states), "and so is what else is known"
        return [Verdict(None, state.steps[-1].text.split("{")[-1].rstrip("}")) for state in states]


class _Undecided(_LastWord):
    def equivalent(self, a: str, b: str) -> bool | None:
        return None


class _Likes(_LastWord):
    """Scores answers without their gold ones: the larger the better."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        verdicts = super().judge(states)
        return [
            Verdict(float(v.answer), v.answer) if v.answer in ("1", "2", "3") else Verdict(0.0)
            for v in verdicts
        ]


@frozen
class _Tests(Verifier):
    """Knows a right solution by what is in the metadata; abstains on ``3``."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        texts = [state.steps[-1].text for state in states]
        return [
            Verdict(None, reason="stalled")
            if "3" in text
            else Verdict(float(f"{{{state.problem.metadata['wanted']}}}" in text))
            for state, text in zip(states, texts, strict=True)
        ]


def test_any_verifier_will_do() -> None:
    trees: list[SearchTree] = []
    result = evaluate(PROBLEMS, BestOfN(), POLICY, _LastWord(), CONFIG, on_trees=trees.extend)
    assert result.marks == (True, False, False), "by the text"
    assert result.functions == {"next_step": 9}
    assert result.tokens == 9
    assert result.tokens_per_problem == 3
    assert [tree.problem.id for tree in trees] == ["a", "b", "c"]


def test_the_rule_marks_equal_answers() -> None:
    result = evaluate(PROBLEMS, BestOfN(), POLICY, MathVerifier(), CONFIG)
    assert result.marks == (True, True, False)


def test_what_cannot_be_decided_is_not_right_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        result = evaluate(PROBLEMS, BestOfN(), POLICY, _Undecided(), CONFIG)
    assert result.accuracy == 0
    assert [r.right for r in result.results] == [None] * 3
    assert "3 of 3 answers could not be compared" in caplog.text


def _hypergeometric(n: int, right: int, k: int) -> Fraction:
    return 1 - Fraction(comb(n - right, k), comb(n, k))


def test_one_search_gives_pass_at_every_k_from_its_rollouts() -> None:
    trees: list[SearchTree] = []
    result = evaluate(
        MANY, BestOfN(), DICE, MathVerifier(), evolve(CONFIG, budget=Budget(rollouts=8)),
        on_trees=trees.extend,
    )  # fmt: skip
    right = [
        sum(answer == problem.answer for _, answer in answered(tree))
        for problem, tree in zip(MANY, trees, strict=True)
    ]
    assert 0 < sum(right) < 8 * 12
    for k in range(1, 9):
        expected = tuple(float(_hypergeometric(8, count, k)) for count in right)
        assert result.pass_at(k).values == expected
    assert result.pass_at(8).value == result.coverage().value
    assert result.majority_at(1).value == pytest.approx(result.pass_at(1).value)
    silent = sum(8 - len(list(answered(tree))) for tree in trees)
    assert result.unanswered == silent / 96 > 0


def test_the_vote_and_the_best_of_all_samples_are_what_is_chosen() -> None:
    config = SearchConfig(Budget(rollouts=9))
    voted = evaluate(MANY, BestOfN(), DICE, _Likes(), config)
    picked = evaluate(MANY, BestOfN(), DICE, _Likes(), config, choose=best)
    ties = 0
    for mark, expected in zip(voted.marks, voted.majority_at(9).values, strict=True):
        if expected in (0, 1):
            assert mark == expected
        else:
            ties += 1
    assert ties < 6, "most votes have one winner, or this shows nothing"
    assert picked.best_at(9).values == tuple(map(float, picked.marks))
    assert {*voted.marks} == {*picked.marks} == {True, False}


def test_what_needs_independent_samples_says_so() -> None:
    search = evaluate(MANY, MCTS(expansion="sample"), DICE, MathVerifier(), CONFIG)
    cut = evaluate(MANY, BestOfN(), DICE, MathVerifier(), SearchConfig(Budget(rollouts=3, tokens=99)))
    for result in (search, cut):
        with pytest.raises(ValueError, match=r"pass@2 is of independent samples: evaluate with BestOfN"):
            result.pass_at(2)
        assert 0 <= result.coverage().value <= 1
    sampled = evaluate(MANY, BestOfN(), DICE, MathVerifier(), CONFIG)
    with pytest.raises(
        ValueError, match="majority@4: problem 'p0' has 3 rollouts; choose k from 1 to 3"
    ):
        sampled.majority_at(4)
    with pytest.raises(ValueError, match="best@2: the verifier scored no answer"):
        sampled.best_at(2)


def test_several_seeds_are_clustered_by_problem() -> None:
    one = [
        evaluate(MANY, BestOfN(), DICE, MathVerifier(), evolve(CONFIG, seed=seed)) for seed in (5, 6, 7)
    ]
    all_three = evaluate(MANY, BestOfN(), DICE, MathVerifier(), CONFIG, seeds=(5, 6, 7))
    assert all_three.results == tuple(r for each in one for r in each.results)
    shares = all_three.chosen().values
    assert len(shares) == 12
    for place, share in enumerate(shares):
        assert share == pytest.approx(sum(each.marks[place] for each in one) / 3)
    assert all_three.accuracy == pytest.approx(all_three.chosen().value)
    low, high = all_three.interval
    assert low < all_three.accuracy < high


# -- a marker -----------------------------------------------------------------------------------------


def test_a_marker_is_given_back_what_the_search_did_not_see(caplog: pytest.LogCaptureFixture) -> None:
    problems = [Problem("a", "?", metadata={"wanted": "1"}), Problem("b", "?", metadata={"wanted": "2"})]
    config = SearchConfig(Budget(rollouts=25))
    result = evaluate(problems, BestOfN(), DICE, MathVerifier(), config, marker=_Tests())
    assert [r.answer for r in result.results] == ["1", "1"]
    assert result.marks == (True, False)
    assert "marker" not in caplog.text
    for own, wanted in zip(result.results, ("1", "2"), strict=True):
        for rollout in own.rollouts:
            expected = {None: None, "3": None}.get(rollout.answer, rollout.answer == wanted)
            assert rollout.right is expected


def _third(tree: SearchTree, equivalent: Equivalence) -> str | None:
    return "3"


def test_a_marker_that_abstains_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    problems = [Problem("a", "?", metadata={"wanted": "1"})]
    config = SearchConfig(Budget(rollouts=25))
    result = evaluate(problems, BestOfN(), DICE, MathVerifier(), config, marker=_Tests(), choose=_third)
    assert result.marks == (False,)
    assert "the marker abstained on 1 of 1 answers" in caplog.text
    with pytest.raises(ValueError, match="'a': the answer '3' was chosen, and no rollout"):
        evaluate(problems, BestOfN(), POLICY, _LastWord(), CONFIG, marker=_Tests(), choose=_third)


# -- nothing to mark ----------------------------------------------------------------------------------


def test_a_search_without_any_answer_says_why(caplog: pytest.LogCaptureFixture) -> None:
    mute = TabularPolicy(Grammar.default(), {(): [Reply("next_step", "forty-two", 1.0)]})
    result = evaluate(PROBLEMS, BestOfN(), mute, MathVerifier(), CONFIG)
    assert result.accuracy == 0
    assert result.unanswered == 1
    assert "none of 9 rollouts of 3 problems has an answer" in caplog.text
    assert "in 9 the verifier found none (9: " in caplog.text


class _Endless(TabularPolicy):
    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        return [
            [Step("next_step", "and so on", (1,), (0.0,), (True,), terminal=True, truncated=True)]
            for _ in requests
        ]


@frozen
class _WholeOnly(_LastWord):
    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [Verdict(None, reason="unfinished") for _ in states]


def test_truncated_rollouts_are_told_from_others(caplog: pytest.LogCaptureFixture) -> None:
    evaluate(PROBLEMS, BestOfN(), _Endless(POLICY.grammar, POLICY.table), _WholeOnly(), CONFIG)
    assert "a limit truncated 9, 0 did not end, and in 0" in caplog.text


def test_some_answers_are_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        evaluate(MANY, BestOfN(), DICE, MathVerifier(), CONFIG)
    assert not caplog.records


@pytest.mark.parametrize(
    ("problems", "message"),
    [
        ([], "there are no problems"),
        ([Problem("a", "?", "1"), Problem("d", "?")], r"'d' has no answer.*1 of 2"),
        ([Problem("a", "?", "1"), Problem("a", "!", "1")], "'a' first"),
    ],
)
def test_problems_that_cannot_be_marked_are_named(problems: list[Problem], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(problems, BestOfN(), POLICY, MathVerifier(), CONFIG)


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_seeds_must_differ(seeds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="give one or more that differ"):
        evaluate(PROBLEMS, BestOfN(), POLICY, MathVerifier(), CONFIG, seeds=seeds)


# -- kept ---------------------------------------------------------------------------------------------


def test_it_comes_back_out_of_json() -> None:
    result = evaluate(MANY, BestOfN(), DICE, _Likes(), CONFIG)
    assert evaluation_from_json(json.loads(json.dumps(evaluation_to_json(result)))) == result


class _Counted(TabularPolicy):
    """Counts its calls, on the class: what is counted is no setting."""

    calls: ClassVar[int] = 0

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        type(self).calls += 1
        return super().extend(requests)


class _Unmarked(_Undecided):
    """Compares nothing a second time, on the class as well."""

    compared: ClassVar[int] = 0

    def equivalent(self, a: str, b: str) -> bool | None:
        type(self).compared += 1
        return a == b


def test_a_finished_evaluation_is_read(tmp_path: Path) -> None:
    policy, verifier = _Counted(DICE.grammar, DICE.table), _Unmarked()
    first = evaluate(MANY, BestOfN(), policy, verifier, CONFIG, directory=tmp_path)
    before = _Counted.calls, _Unmarked.compared
    assert min(before) > 0
    again = evaluate(MANY, BestOfN(), policy, verifier, CONFIG, directory=tmp_path)
    assert (_Counted.calls, _Unmarked.compared) == before, "neither searched nor marked again"
    assert again == first
    assert again.settings["problems"].keys() == {problem.id for problem in MANY}
    assert again.versions["rftt"]


def test_another_setting_in_its_directory_is_refused(tmp_path: Path) -> None:
    def run(**changes: object) -> None:
        arguments: dict[str, object] = {
            "problems": MANY, "searcher": BestOfN(), "policy": DICE, "verifier": MathVerifier(),
            "config": CONFIG, "directory": tmp_path,
        }  # fmt: skip
        evaluate(**{**arguments, **changes})  # type: ignore[arg-type]

    run()
    faster = evolve(CONFIG, max_concurrent_trees=2, streaming=True)
    run(config=faster)
    other_gold = [evolve(MANY[0], answer="7"), *MANY[1:]]
    for changes, what in (
        ({"problems": other_gold}, r"another problems: problems\.p0"),
        ({"problems": MANY[:-1]}, r"another problems: problems\.p11 .* missing"),
        ({"searcher": MCTS()}, r"another searcher: searcher\.class"),
        ({"policy": POLICY}, r"another policy: policy\.table"),
        ({"verifier": MathVerifier(9)}, r"another verifier: verifier\.seconds was 5\.0 and is 9"),
        ({"config": evolve(CONFIG, seed=1)}, "another (seeds|config)"),
        ({"choose": best}, "another choose: choose was .*majority"),
        ({"marker": _Tests()}, "another marker"),
        ({"seeds": (0, 1)}, "another seeds"),
    ):
        with pytest.raises(ValueError, match=what):
            run(**changes)
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(ValueError, match=r"evaluation\.json: not an evaluation"):
        run()


def test_what_has_no_fingerprint_is_only_refused_where_it_would_be_compared(tmp_path: Path) -> None:
    def local(tree: SearchTree, equivalent: Equivalence) -> str | None:
        return majority(tree, equivalent)

    result = evaluate(PROBLEMS, BestOfN(), POLICY, MathVerifier(), CONFIG, choose=local)
    assert result.settings["choose"].startswith("no fingerprint: the value is a local function")
    with pytest.raises(ValueError, match="choose: the value is a local function"):
        evaluate(PROBLEMS, BestOfN(), POLICY, MathVerifier(), CONFIG, choose=local, directory=tmp_path)
