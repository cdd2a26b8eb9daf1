"""The tree refuses what would break it; files come back as they were; answers are counted right."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from rftt import (
    Budget,
    Grammar,
    MathVerifier,
    Policy,
    Problem,
    SearchConfig,
    Searcher,
    SearchTree,
    Step,
    Verdict,
    majority,
    resume_search,
    run_search,
)
from rftt.search.answers.voting import best, weighted
from rftt.search.searcher import Expansion
from rftt.search.tree.storage import load_trees, save_trees, tree_to_json
from rftt.search.view.text import render
from rftt.testing.finite.tabular import TabularPolicy
from tests.strategies import policies, problems, searchers


def _step(function: str, *, text: str = "", terminal: bool = False) -> Step:
    return Step(function, text, (1, 2), (-0.5, -0.25), (True, True), terminal)


def _tree(max_depth: int = 18) -> SearchTree:
    return SearchTree(Problem("p", "what?", "1"), Grammar.default(), max_depth)


def test_attach_refuses_what_breaks_the_grammar_the_depth_or_an_end() -> None:
    tree = _tree(max_depth=2)
    with pytest.raises(ValueError, match="'output' may not follow node 0"):
        tree.attach(0, _step("output", terminal=True))
    step = tree.attach(0, _step("next_step"))
    end = tree.attach(step, _step("output", terminal=True))
    with pytest.raises(ValueError, match="node 2 ended its solution"):
        tree.attach(end, _step("next_step"))
    other = tree.attach(step, _step("next_step"))
    with pytest.raises(ValueError, match="depth limit 2"):
        tree.attach(other, _step("next_step"))


@given(policies(), searchers, st.integers(0, 99))
def test_files_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, policy: TabularPolicy, searcher: Searcher, seed: int
) -> None:
    trees = run_search(
        problems(3),
        searcher,
        policy,
        MathVerifier(),
        SearchConfig(Budget(rollouts=8), seed=seed, max_depth=6),
    )
    path = tmp_path_factory.mktemp("trees") / "trees.jsonl"
    save_trees(path, trees)
    again = load_trees(path)
    assert [tree_to_json(t) for t in again] == [tree_to_json(t) for t in trees]
    assert [render(t) for t in again] == [render(t) for t in trees]


@pytest.mark.parametrize("line", ["{", "[]", '{"problem": 3}', "null"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trees.jsonl"
    save_trees(path, [_tree()])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"trees\.jsonl, line 2"):
        load_trees(path)


def _answered(answers: list[tuple[str | None, float | None]]) -> SearchTree:
    tree = _tree()
    for answer, score in answers:
        node = tree.attach(0, evolve(_step("next_step"), terminal=True))
        tree.verdict[node] = Verdict(score, answer)
        tree.backup(node, score)
    return tree


def test_choosing_an_answer() -> None:
    tree = _answered([("1", 0.2), ("2", 0.9), ("1", 0.3), (None, None), ("3", None)])
    assert majority(tree) == "1"
    assert best(tree) == "2"
    assert weighted(tree, lambda t, n: t.value_sum[n]) == "2"
    assert majority(_answered([(None, None)])) is None
    assert best(_answered([])) is None


def test_two_problems_with_one_id_are_refused() -> None:
    twins = [Problem("same", "a?", "1"), Problem("same", "b?", "2")]
    with pytest.raises(ValueError, match="share the id 'same'"):
        run_search(twins, _Asks([]), _NoPolicy(), MathVerifier(), SearchConfig(Budget(rollouts=1)))


class _NoPolicy(Policy):
    grammar = Grammar.default()

    def __init__(self, reply: list[Step] | None = None) -> None:
        self.reply = reply or []

    def prior(self, states: object) -> list[object]:  # type: ignore[override]
        return []

    def extend(self, requests: object) -> list[list[Step]]:  # type: ignore[override]
        return [self.reply]


class _Asks(Searcher):
    """Asks for what it is given."""

    def __init__(self, expansions: list[Expansion]) -> None:
        self.expansions = expansions

    def ask(self, tree: SearchTree, rng: object) -> list[Expansion]:
        return self.expansions


def test_the_engine_refuses_bad_expansions_and_bad_completions() -> None:
    def search(expansion: Expansion, reply: list[Step], trees: list[SearchTree] | None = None) -> None:
        resume_search(
            trees or [_tree()], _Asks([expansion]), _NoPolicy(reply), MathVerifier(),
            SearchConfig(Budget(rollouts=1)),
        )  # fmt: skip

    two = [_step("next_step"), _step("next_step")]
    with pytest.raises(ValueError, match="has 2 steps; asked for 1 to 1"):
        search(Expansion(0, until="step"), two)
    with pytest.raises(ValueError, match="opens with 'next_step'; asked for 'analysis'"):
        search(Expansion(0, function="analysis"), two)
    with pytest.raises(ValueError, match="0 steps"):
        search(Expansion(0), [])
    tree = _tree()
    tree.attach(0, _step("next_step", terminal=True))
    with pytest.raises(ValueError, match="node 1 of 'p', but it is terminal"):
        search(Expansion(1), two, [tree])


def test_watching_and_stopping() -> None:
    seen: list[int] = []

    def stop_at_three(trees: object, finished: int) -> bool:
        seen.append(finished)
        return len(seen) < 3

    reply = [_step("next_step", terminal=True)]
    (tree,) = resume_search(
        [_tree()], _Asks([Expansion(0)]), _NoPolicy(reply), MathVerifier(),
        SearchConfig(Budget(rollouts=99)), on_round=stop_at_three,
    )  # fmt: skip
    assert tree.rounds == tree.visits[0] == 3
