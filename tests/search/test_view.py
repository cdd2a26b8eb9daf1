"""What is drawn of a tree is what the tree holds, whatever its texts hold."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import Function, Grammar, Problem, SearchTree, Step, Verdict
from rftt.search.view.colors import colors
from rftt.search.view.page import page
from rftt.search.view.text import render
from rftt.testing import TabularPolicy
from tests.search.trees import HOSTILE, grown, searches

Searched = tuple[TabularPolicy, list[SearchTree]]

# Text

_LINE = re.compile(r'( *)(\d+) (\w+) "(.*)" visits (\d+)(?: value (\S+))?(.*)')


@given(searches())
def test_text_has_a_line_for_each_node_that_says_what_the_tree_holds(searched: Searched) -> None:
    _, [tree] = searched
    lines = [match for line in render(tree, width=200).split("\n") if (match := _LINE.fullmatch(line))]
    assert sorted(int(line[2]) for line in lines) == list(range(len(tree)))
    for line in lines:
        node = int(line[2])
        step, verdict, rest = tree.step[node], tree.verdict[node], line[7]
        assert len(line[1]) == 2 * tree.depth[node]
        assert line[3] == (step.function if step else "question")
        assert line[4] == " ".join(tree.text(node).split())
        assert int(line[5]) == tree.visits[node]
        value = tree.value(node)
        assert (line[6] is None) if value is None else float(line[6]) == pytest.approx(value, rel=0.005)
        assert ("abstained" in rest) == (verdict is not None and verdict.score is None)
        assert ("score" in rest) == (verdict is not None and verdict.score is not None)
        assert (f'answer "{verdict and verdict.answer}"' in rest) == bool(verdict and verdict.answer)
        assert ("terminal" in rest) == bool(step and step.terminal and not step.truncated)
        assert ("truncated" in rest) == bool(step and step.truncated)
        assert ("exhausted" in rest) == tree.exhausted[node]
    # Every line but the first stands somewhere below its parent, and nothing of another subtree between.
    order = [int(line[2]) for line in lines]
    assert all(
        tree.parent[after] == before or tree.depth[after] <= tree.depth[before]
        for before, after in pairwise(order)
    )


@given(searches(), st.integers(10, 120), st.none() | st.integers(0, 10))
def test_text_keeps_to_its_limits(searched: Searched, width: int, max_nodes: int | None) -> None:
    _, [tree] = searched
    lines = render(tree, width=width, max_nodes=max_nodes).split("\n")
    assert all(len(line) <= width for line in lines)
    if max_nodes is None or max_nodes >= len(tree):
        assert len(lines) == len(tree)
    else:
        assert lines[:-1] == render(tree, width=width).split("\n")[:max_nodes]
        assert lines[-1] == f"... {len(tree) - max_nodes} more"[:width]


def test_text_of_a_tree() -> None:
    tree = SearchTree(Problem("p", "What is\n3 + 4?"), Grammar.default())
    right = tree.attach(0, Step("next_step", "3 + 4 = 7", [1], [0.0], [True], True))
    tree.verdict[right] = Verdict(1.0, "7")
    tree.backup(right, 1.0)
    other = tree.attach(0, Step("next_step", "3 + 4 =", [1], [0.0], [True], True, True))
    tree.verdict[other] = Verdict(None)
    tree.backup(other, None)
    tree.mark_exhausted(other)
    assert render(tree).split("\n") == [
        '0 question "What is 3 + 4?" visits 2 value 1',
        '  1 next_step "3 + 4 = 7" visits 1 value 1 score 1 answer "7" terminal',
        '  2 next_step "3 + 4 =" visits 1 abstained truncated exhausted',
    ]


def test_no_text_breaks_a_line_or_reaches_the_terminal() -> None:
    tree = grown(list(HOSTILE))
    lines = render(tree, width=300).split("\n")
    assert len(lines) == len(tree)
    assert all(line.isprintable() for line in lines)


def test_a_very_deep_tree_can_be_drawn() -> None:
    tree = SearchTree(Problem("p", "what?"), Grammar.default(), max_depth=3000)
    for node in range(3000):
        tree.attach(node, Step("next_step", "on", [1], [0.0], [True], False))
    assert render(tree, width=100).split("\n")[3000].endswith('3000 next_step "on" visits 0')
    assert "next_step" in page(tree)


# Colours

_names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)


def _grammar(names: list[str]) -> Grammar:
    return Grammar([Function(n, "do it") for n in names], start=names, followers={})


@given(st.lists(_names, min_size=1, max_size=16, unique=True))
def test_functions_have_colours_of_their_own(names: list[str]) -> None:
    colours = colors(_grammar(names))
    assert set(colours) == set(names)
    assert len(set(colours.values())) == len(names)
    assert colours == colors(_grammar(names))
    assert colours[names[0]] == colors(_grammar(names[:1]))[names[0]] or set(names) & set(
        Grammar.default().functions
    )


def test_the_default_functions_keep_their_colours_in_any_grammar() -> None:
    default = colors(Grammar.default())
    mine = colors(_grammar(["mine", "verify", "output"]))
    assert (mine["verify"], mine["output"]) == (default["verify"], default["output"])
    assert len(colors(_grammar([f"f{i}" for i in range(40)]))) == 40
