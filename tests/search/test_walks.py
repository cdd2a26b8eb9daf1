"""The compiled way down goes where the same rule in Python goes; visits and scores go up whole."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import Grammar, Problem, SearchTree
from rftt.search.contract.replies import trees
from rftt.search.rounds import LateRandom, seed_from
from rftt.search.selection import (
    SelectionRule,
    ValueTransform,
    as_it_is,
    between_siblings,
    puct,
    uct,
)
from rftt.search.walks import add_visits, descend

MARK = 3


def _step_down(
    tree: SearchTree, node: int, rule: SelectionRule, transform: ValueTransform, exploration: float
) -> int | None:
    """The child that the rule prefers, ``None`` where none is open."""
    children = [child for child in tree.children(node) if not tree.closed[child]]
    own = tree.value(node)
    mean = 0.0 if own is None else own
    values = [mean if (value := tree.value(child)) is None else value for child in children]
    low, high = min([mean, *values]), max([mean, *values])
    scores = {
        child: rule(
            transform(value, low, high), tree.visits[child], tree.visits[node], tree.chance[child],
            exploration,
        )
        for child, value in zip(children, values, strict=True)
    }  # fmt: skip
    return max(scores, key=scores.__getitem__, default=None)


@given(
    trees(max_samples=16),
    st.data(),
    st.sampled_from([uct, puct]),
    st.sampled_from([as_it_is, between_siblings]),
    st.sampled_from([0.0, 0.5, 2.0]),
)
def test_the_way_down(
    tree: SearchTree,
    data: st.DataObject,
    rule: SelectionRule,
    transform: ValueTransform,
    exploration: float,
) -> None:
    marks = st.lists(st.sampled_from([0, MARK, MARK, -MARK]), min_size=len(tree), max_size=len(tree))
    chances = st.lists(st.floats(0, 1), min_size=len(tree), max_size=len(tree))
    for node, (mark, chance) in enumerate(zip(data.draw(marks), data.draw(chances), strict=True)):
        tree.settled[node], tree.chance[node] = mark, chance
    node = start = data.draw(st.integers(0, len(tree) - 1))
    while tree.settled[node] == MARK:
        child = _step_down(tree, node, rule, transform, exploration)
        if child is None:
            break
        node = child
    assert descend(tree, start, MARK, rule, transform, exploration) == node


@given(trees(), st.data())
def test_visits_go_up_to_the_root_and_can_be_taken_back(tree: SearchTree, data: st.DataObject) -> None:
    node = data.draw(st.integers(0, len(tree) - 1))
    before = tree.visits.tolist()
    add_visits(tree.parent, tree.visits, node, 2)
    passed = {0, *tree.path(node)}
    assert tree.visits.tolist() == [n + 2 * (i in passed) for i, n in enumerate(before)]
    add_visits(tree.parent, tree.visits, node, -2)
    assert tree.visits.tolist() == before


def test_a_rule_that_cannot_be_compiled_is_named() -> None:
    def by_text(
        value: float, visits: int, parent_visits: int, prior: float, exploration: float
    ) -> float:
        return float(f"{value}".strip("x"))

    tree = SearchTree(Problem("p", "what?"), Grammar.default())
    with pytest.raises(ValueError, match=r"cannot compile the selection rule <function .*by_text"):
        descend(tree, 0, MARK, by_text, as_it_is, 1.0)


@given(st.text(), st.integers(1, 70))
def test_late_random_is_the_random_of_its_text(text: str, bits: int) -> None:
    late, plain = LateRandom(), Random(seed_from(text))
    late.restart(text)
    assert late.getstate() == plain.getstate()
    late.restart(text)
    assert late.getrandbits(bits) == plain.getrandbits(bits)
    assert late.sample(range(100), 5) == plain.sample(range(100), 5)
    assert (late.gauss(0, 1), late.random()) == (plain.gauss(0, 1), plain.random())
    late.restart(text)
    assert late.gauss(0, 1) == Random(seed_from(text)).gauss(0, 1)
