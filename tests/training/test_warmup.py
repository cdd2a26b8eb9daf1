"""Annotated solutions made from nano's own trees."""

from __future__ import annotations

import logging
import re
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
    SearchConfig,
    SearchTree,
    Step,
    TransformersSampler,
    Verdict,
    WarmUp,
    run_search,
)  # fmt: skip
from rftt.nano.checkpoint import load_nano
from rftt.problems.arithmetic import arithmetic_problems
from rftt.problems.problem import Problem
from rftt.training.branches import path_ends
from rftt.training.warmup import says_right

FIRST_FIVE = ("clarify", "analysis", "subquestion", "next_step", "direct_answer")


@cache
def _warm_up() -> tuple[WarmUp, list[SearchTree], datasets.Dataset]:
    model, tokenizer = load_nano()
    policy = PromptedPolicy(
        TransformersSampler(model, tokenizer), tokenizer, Grammar.default(), functions=FIRST_FIVE
    )
    searcher = MCTS(expansion="sample", width=4, simulations_per_round=4)
    config = SearchConfig(Budget(rollouts=16), max_tokens=200)
    trees = run_search(arithmetic_problems(24, "warmup"), searcher, policy, MathVerifier(), config)
    warm_up = WarmUp(policy, FunctionalTokens.add(tokenizer, Grammar.default()))
    return warm_up, trees, warm_up.annotate(trees)


def _steps(row: dict[str, list[int]]) -> list[tuple[str, tuple[int, ...], bool]]:
    """Function, body and whether it is learned, of each step of an annotated solution."""
    warm_up, trees, _ = _warm_up()
    (tree,) = [tree for tree in trees if tree.problem.id == row["problem_id"]]
    start = len(warm_up.policy.context(tree.state(0)))
    assert not any(row["action_mask"][:start]), "a question is not learned"
    ids, action_mask = row["ids"][start:], row["action_mask"][start:]
    steps = []
    for span in warm_up.tokens.split(ids):
        assert span.closed
        flags = set(action_mask[span.start : span.end])
        assert len(flags) == 1, "a step is learned from its opener to its closer or not at all"
        steps.append((span.function, tuple(ids[span.start + 1 : span.end - 1]), flags == {True}))
    return steps


def test_every_kind_is_made() -> None:
    assert set(_warm_up()[2]["kind"]) == {"path", "checked", "merged"}


def test_solutions_obey_the_grammar_and_end_in_the_right_answer() -> None:
    warm_up, trees, data = _warm_up()
    gold = {tree.problem.id: tree.problem.answer for tree in trees}
    for row in data:
        steps = _steps(row)
        assert warm_up.tokens.grammar.violation([function for function, _, _ in steps]) is None
        function, body, _ = steps[-1]
        assert function == "output"
        assert warm_up.policy.tokenizer.decode(list(body)) == f"\\boxed{{{gold[row['problem_id']]}}}"
        assert len(row["ids"]) == len(row["action_mask"])


def test_only_the_wrong_step_of_a_merged_solution_is_not_learned() -> None:
    for row in _warm_up()[2]:
        steps = _steps(row)
        read_only = [place for place, (_, _, is_learned) in enumerate(steps) if not is_learned]
        assert len(read_only) == (row["kind"] == "merged")
        for place in read_only:
            assert [function for function, _, _ in steps[place + 1 : place + 3]] == ["verify", "refine"]


def test_a_check_says_what_the_tree_says() -> None:
    warm_up, _, data = _warm_up()
    for row in data:
        steps = _steps(row)
        functions = [function for function, _, _ in steps]
        assert functions.count("verify") == (row["kind"] != "path")
        assert functions.count("refine") == (row["kind"] == "merged")
        if row["kind"] != "path":
            said = warm_up.policy.tokenizer.decode(list(steps[functions.index("verify")][1]))
            assert says_right(said) is (row["kind"] == "checked")


def test_ids_are_those_that_were_sampled() -> None:
    warm_up, trees, data = _warm_up()
    bodies = {
        tree.problem.id: {warm_up.policy.body(s) for s in tree.step if s is not None} for tree in trees
    }
    for row in data:
        if row["kind"] == "path":
            assert all(body in bodies[row["problem_id"]] for _, body, _ in _steps(row)[:-1])


def test_what_is_left_out_is_logged_in_numbers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rftt.training")
    warm_up, trees, data = _warm_up()
    again = warm_up.annotate(trees)
    assert again.to_list() == data.to_list()
    (record,) = caplog.records
    without = sum(not path_ends(tree).right for tree in trees)
    message = record.getMessage()
    assert without > 0
    assert f"{len(data)} solutions of {len(trees)} trees; left out: " in message
    assert f"{without} trees without a right path" in message
    dropped = sum(map(int, re.findall(r"(\d+) checks that", message)))
    assert dropped > 0, "nano's checks are not always right"


def _one_step(text: str, verdict: Verdict | None, truncated: bool = False) -> SearchTree:
    """A tree of one path of one step, in nano's words."""
    tokenizer = _warm_up()[0].policy.tokenizer
    ids = tokenizer.encode(f"{text}\n", add_special_tokens=False)
    tree = SearchTree(Problem("h", "3+4", "7"), Grammar.default())
    n = len(ids)
    step = Step("next_step", text, ids, (-1.0,) * n, (True,) * n, True, truncated)
    node = tree.attach(0, step)
    tree.verdict[node] = verdict
    tree.backup(node, verdict.score if verdict else None)
    return tree


def test_the_answer_is_stated_as_the_model_wrote_it() -> None:
    warm_up, _, _ = _warm_up()
    (row,) = warm_up.annotate([_one_step("\\boxed{07}", Verdict(1.0, answer="07"))])
    assert row["text"].endswith("<output>\\boxed{07}</output>")


@pytest.mark.parametrize(
    ("verdict", "truncated"),
    [
        (None, True),  # the budget cut it
        (Verdict(None, answer="8"), False),  # the verifier abstained
        (Verdict(0.5, answer="8"), False),
        (Verdict(1.0), False),  # said to be right, but without an answer to state
    ],
)
def test_neither_right_nor_wrong_is_left_out(verdict: Verdict | None, truncated: bool) -> None:
    tree = _one_step("8", verdict, truncated)
    ends = path_ends(tree)
    assert (ends.right, ends.wrong, ends.neither) == ([], [], [1])
    with pytest.raises(ValueError, match="none of 1 trees has a right path"):
        _warm_up()[0].annotate([tree])


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
