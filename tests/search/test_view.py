"""What is drawn of a tree is what the tree holds, whatever its texts hold."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rftt import (
    Function,
    Grammar,
    Problem,
    SearchTree,
    Segment,
    TabularPolicy,
    dot,
    page,
    render,
)
from rftt.search.view import hues
from tests.search.trees import grown, searches

Searched = tuple[TabularPolicy, list[SearchTree]]

# Text


@given(searches(), st.integers(30, 120))
def test_text_has_a_line_for_each_node(searched: Searched, width: int) -> None:
    _, [tree] = searched
    lines = render(tree, width=width).split("\n")
    assert len(lines) == len(tree)
    assert all(len(line) <= width for line in lines)
    visits = [int(match[1]) for line in lines if (match := re.match(r" *\[(\d+)", line))]
    assert sorted(visits) == sorted(tree.visits)
    indents = [(len(line) - len(line.lstrip())) // 2 for line in lines]
    assert sorted(indents) == sorted(tree.depth)
    assert all(below <= above + 1 for above, below in pairwise(indents))


def test_text_says_function_visits_value_and_text() -> None:
    tree = grown(["a  b", "c\nd"])
    assert render(tree, width=30).split("\n")[1:] == [
        "  [1] <analysis> a b",
        "    [1] <next_step> a b",
        "  [1, 1.00] <analysis> c d",
        "    [1, 1.00] <next_step> c d",
    ]


def test_a_very_deep_tree_can_be_drawn() -> None:
    tree = SearchTree(Problem("p", "what?"), Grammar.default(), max_depth=3000)
    for node in range(3000):
        tree.attach(node, Segment("next_step", "on", [1], [0.0], [True], False))
    assert len(render(tree, width=9000).split("\n")) == 3001
    assert "n3000" in dot(tree)
    assert "next_step" in page(tree)


# Graphviz

_NODE = re.compile(r'  n(\d+) \[label="((?:[^"\\]|\\.)*)", fillcolor="([^"\\]*)"\];')
_LINE = re.compile(r"  n(\d+) -> n(\d+) \[penwidth=([\d.]+)\];")


def _shown(label: str) -> list[str]:
    """The lines of a label as Graphviz shows them."""
    unquoted = re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], label)
    return unquoted.replace("&amp;", "&").split("\n")


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_graphviz_source_says_what_the_tree_holds(texts: list[str]) -> None:
    tree = grown(texts)
    body = dot(tree, width=9999).rstrip().split("\n")[4:-1]
    nodes = {int(match[1]): match for line in body if (match := _NODE.fullmatch(line))}
    lines = [match for line in body if (match := _LINE.fullmatch(line))]
    assert len(nodes) + len(lines) == len(body)
    assert sorted(nodes) == list(range(len(tree)))
    assert {(int(m[1]), int(m[2])) for m in lines} == {(tree.parent[n], n) for n in range(1, len(tree))}
    for node, match in nodes.items():
        head, text, *_ = _shown(match[2])
        segment = tree.segment[node]
        assert head.startswith(
            f"{segment.function if segment else 'question'}: {tree.visits[node]} visit"
        )
        kept = "".join(c if c.isprintable() else " " for c in " ".join(tree.text(node).split()))
        assert text == kept


def test_lines_are_as_thick_as_they_were_travelled() -> None:
    tree = grown(["a", "b"])
    tree.backup(4, 1.0)
    thickness = {int(m[2]): float(m[3]) for m in _LINE.finditer(dot(tree))}
    assert thickness[1] == thickness[2] < thickness[3] == thickness[4]


# Colours

_names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)


def _grammar(names: list[str]) -> Grammar:
    return Grammar([Function(n, "do it") for n in names], start=names, followers={})


@given(st.lists(_names, min_size=1, max_size=16, unique=True))
def test_functions_have_colours_of_their_own(names: list[str]) -> None:
    colours = hues(_grammar(names))
    assert set(colours) == set(names)
    assert len(set(colours.values())) == len(names)
    assert colours == hues(_grammar(names))
    assert colours[names[0]] == hues(_grammar(names[:1]))[names[0]] or set(names) & set(
        Grammar.default().functions
    )


def test_the_default_functions_keep_their_colours_in_any_grammar() -> None:
    default = hues(Grammar.default())
    mine = hues(_grammar(["mine", "verify", "output"]))
    assert (mine["verify"], mine["output"]) == (default["verify"], default["output"])
    assert len(hues(_grammar([f"f{i}" for i in range(40)]))) == 40
