"""Annotated solutions made from nano's own trees."""

from __future__ import annotations

from functools import cache

import datasets
import pytest

from rftt import (
    MCTS,
    Budget,
    FunctionalTokens,
    Grammar,
    MathVerifier,
    PromptedPolicy,
    SearchTree,
    TransformersSampler,
    WarmUp,
    arithmetic_problems,
    load_nano,
    run_search,
)  # fmt: skip
from rftt.tuning.warmup import says_right

FIRST_FIVE = ("clarify", "analysis", "subquestion", "next_step", "direct_answer")


@cache
def _warm_up() -> tuple[WarmUp, list[SearchTree], datasets.Dataset]:
    model, tokenizer = load_nano()
    policy = PromptedPolicy(
        TransformersSampler(model, tokenizer), tokenizer, Grammar.default(), functions=FIRST_FIVE
    )
    trees = run_search(
        arithmetic_problems(24, "warmup"), MCTS(openers="sampled", width=4, parallel=4), policy,
        MathVerifier(), budget=Budget(rollouts=16), max_tokens=200,
    )  # fmt: skip
    warm_up = WarmUp(policy, FunctionalTokens.add(tokenizer, Grammar.default()))
    return warm_up, trees, warm_up.annotate(trees)


def test_every_kind_is_made() -> None:
    assert set(_warm_up()[2]["kind"]) == {"path", "checked", "merged"}


def test_solutions_obey_the_grammar_and_end_in_the_right_answer() -> None:
    warm_up, trees, data = _warm_up()
    gold = {tree.problem.id: tree.problem.answer for tree in trees}
    question = {t.problem.id: len(warm_up.policy.context(t.state(0))) for t in trees}
    for row in data:
        steps = warm_up.tokens.decode(row["ids"][question[row["problem_id"]] :])
        assert warm_up.tokens.grammar.violation([step.function for step in steps]) is None
        assert steps[-1].function == "output"
        body = warm_up.policy.tokenizer.decode(list(steps[-1].body))
        assert body == f"\\boxed{{{gold[row['problem_id']]}}}"
        assert len(row["ids"]) == len(row["learned"])
        assert not any(row["learned"][: question[row["problem_id"]]])


def test_only_the_wrong_step_of_a_merged_solution_is_not_learned() -> None:
    warm_up, trees, data = _warm_up()
    question = {t.problem.id: len(warm_up.policy.context(t.state(0))) for t in trees}
    for row in data:
        start = question[row["problem_id"]]
        place, unlearned = start, []
        for step in warm_up.tokens.decode(row["ids"][start:]):
            width = len(step.body) + 2
            flags = set(row["learned"][place : place + width])
            assert len(flags) == 1, "a step is learned as a whole or not at all"
            unlearned += [step.function] * (flags == {False})
            place += width
        assert len(unlearned) == (row["kind"] == "merged")


def test_a_check_says_what_the_tree_says() -> None:
    warm_up, trees, data = _warm_up()
    question = {t.problem.id: len(warm_up.policy.context(t.state(0))) for t in trees}
    for row in data:
        steps = warm_up.tokens.decode(row["ids"][question[row["problem_id"]] :])
        functions = [step.function for step in steps]
        assert functions.count("verify") == (row["kind"] != "path")
        assert functions.count("refine") == (row["kind"] == "merged")
        if row["kind"] == "merged":
            assert functions.index("refine") == functions.index("verify") + 1
        if row["kind"] != "path":
            said = warm_up.policy.tokenizer.decode(list(steps[functions.index("verify")].body))
            assert says_right(said) is (row["kind"] == "checked")


def test_ids_are_those_that_were_sampled() -> None:
    warm_up, trees, data = _warm_up()
    bodies = {
        tree.problem.id: {warm_up.policy.body(s) for s in tree.segment if s is not None}
        for tree in trees
    }
    for row in data:
        if row["kind"] == "path":
            start = row["learned"].index(True)
            steps = warm_up.tokens.decode(row["ids"][start:])
            assert all(step.body in bodies[row["problem_id"]] for step in steps[:-1])


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("40*23=920 ok", True), ("that is correct", True), ("this is not right", False),
     ("a mistake: 3*4=12", False), ("3*4=12", None)],
)  # fmt: skip
def test_reading_a_check(reply: str, expected: bool | None) -> None:
    assert says_right(reply) is expected


def test_no_right_path_is_said() -> None:
    warm_up, _, _ = _warm_up()
    with pytest.raises(ValueError, match="none of 0 trees has a right path"):
        warm_up.annotate([])
