"""Merged trees hold what their parts held; a tree cut down to a step holds what is below it."""

from __future__ import annotations

import copy
import math
from collections import Counter, defaultdict

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from rftt import (
    MCTS,
    Budget,
    Function,
    Grammar,
    MathVerifier,
    Problem,
    SearchConfig,
    SearchTree,
    Step,
    Verdict,
    resume_search,
)
from rftt.search.answers.voting import answered
from rftt.search.tree.merge import commit_to, merge
from rftt.search.tree.storage import tree_from_json, tree_to_json
from rftt.testing.finite.tabular import TabularPolicy
from tests.search.trees import searches
from tests.strategies import searchers

Searched = tuple[TabularPolicy, list[SearchTree]]
Path = tuple[tuple[str, tuple[int, ...]], ...]

mcts = st.builds(
    MCTS, expansion=st.sampled_from(["enumerate", "sample"]), width=st.integers(1, 3),
    simulations_per_round=st.integers(1, 3), discount=st.sampled_from([1.0, 0.9]),
)  # fmt: skip


def _path(tree: SearchTree, node: int) -> Path:
    return tuple((step.function, step.ids) for step in tree.state(node).steps)


def _figures(*trees: SearchTree) -> dict[Path, tuple[float, ...]]:
    """Visits, ended, value_count and value_sum by path, summed over all nodes of that path."""
    sums: dict[Path, tuple[float, ...]] = defaultdict(lambda: (0, 0, 0, 0.0))
    for tree in trees:
        for node in range(len(tree)):
            figures = (tree.visits[node], tree.ended[node], tree.value_count[node], tree.value_sum[node])
            path = _path(tree, node)
            sums[path] = tuple(a + b for a, b in zip(sums[path], figures, strict=True))
    return dict(sums)


def _same(a: dict[Path, tuple[float, ...]], b: dict[Path, tuple[float, ...]]) -> bool:
    return a.keys() == b.keys() and all(
        math.isclose(x, y, abs_tol=1e-9) for path in a for x, y in zip(a[path], b[path], strict=True)
    )


def _exhausted(tree: SearchTree) -> dict[Path, bool]:
    return {_path(tree, node): tree.exhausted[node] for node in range(len(tree))}


def _votes(*trees: SearchTree) -> Counter[str]:
    return Counter(answer for tree in trees for _, answer in answered(tree))


def _without_memo(tree: SearchTree) -> dict[str, object]:
    return tree_to_json(tree) | {"memo": {}}


def _has_twins(tree: SearchTree) -> bool:
    return len({_path(tree, node) for node in range(len(tree))}) < len(tree)


def _check_structure(tree: SearchTree) -> None:
    for node in range(len(tree)):
        below = tree.children[node]
        assert tree.visits[node] == tree.ended[node] + sum(tree.visits[child] for child in below)
        assert all(child > node and tree.parent[child] == node for child in below)
        assert all(tree.depth[child] == tree.depth[node] + 1 <= tree.max_depth for child in below)
        assert not (tree.is_terminal(node) and below)
        assert tree.grammar.violation([step.function for step in tree.state(node).steps]) is None
    assert _without_memo(tree_from_json(tree_to_json(tree))) == _without_memo(tree)


@given(searches(most=4))
def test_merging_adds_up_by_path_and_keeps_the_parts(searched: Searched) -> None:
    _, trees = searched
    before = copy.deepcopy([tree_to_json(tree) for tree in trees])
    merged = merge(trees)
    _check_structure(merged)
    assert not _has_twins(merged)
    assert _same(_figures(merged), _figures(*trees))
    assert _votes(merged) == _votes(*trees)
    for name in ("rollouts", "rounds", "tokens"):
        assert getattr(merged, name) == sum(getattr(tree, name) for tree in trees)
    assert merged.memo == {}
    assert [tree_to_json(tree) for tree in trees] == before


@given(searches())
def test_a_tree_merged_alone_is_itself(searched: Searched) -> None:
    _, [tree] = searched
    once = merge([tree])
    if not _has_twins(tree):
        assert _without_memo(once) == _without_memo(tree)
    assert _without_memo(merge([once])) == _without_memo(once)


@given(searches(most=4), st.randoms(use_true_random=False))
def test_the_order_of_the_trees_does_not_matter(searched: Searched, rng: object) -> None:
    _, trees = searched
    mixed = list(trees)
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    one, other = merge(trees), merge(mixed)
    assert _same(_figures(one), _figures(other))
    assert _exhausted(one) == _exhausted(other)
    assert _votes(one) == _votes(other)


@given(searches(most=4), st.integers(0, 4))
def test_merging_bit_by_bit_is_merging_together(searched: Searched, cut: int) -> None:
    _, trees = searched
    first, rest = trees[:cut], trees[cut:]
    together, in_two = merge(trees), merge([merge(first), *rest] if first else rest)
    assert _same(_figures(together), _figures(in_two))
    assert _exhausted(together) == _exhausted(in_two)
    assert together.step == in_two.step
    assert together.verdict == in_two.verdict


@given(searches(most=3, by=mcts), mcts, st.integers(1, 8))
def test_a_search_goes_on_from_a_merged_tree(searched: Searched, searcher: MCTS, more: int) -> None:
    policy, trees = searched
    merged = merge(trees)
    for node in range(len(merged)):
        assert not merged.exhausted[node] or all(
            merged.exhausted[child] for child in merged.children[node]
        )
    visits, rollouts = merged.visits[0], merged.rollouts
    was_done = searcher.is_done(merged)
    resume_search(
        [merged],
        searcher,
        policy,
        MathVerifier(),
        SearchConfig(Budget(rollouts=rollouts + more), max_depth=merged.max_depth),
    )
    _check_structure(merged)
    assert merged.visits[0] - visits == merged.rollouts - rollouts
    assert was_done or merged.rollouts > rollouts or merged.exhausted[0]


def _step(ids: tuple[int, ...], *, function: str = "next_step", **more: object) -> Step:
    size = len(ids)
    given = {"text": "t", "log_probs": (-1.0,) * size, "action_mask": (True,) * size, "terminal": False}
    return Step(function, ids=ids, **given | more)  # type: ignore[arg-type]


def _tree() -> SearchTree:
    return SearchTree(Problem("p", "what?", "1"), Grammar.default())


def test_what_a_merged_node_keeps() -> None:
    one, two = _tree(), _tree()
    a = one.attach(0, _step((1, 2)))
    one.verdict[a] = Verdict(None, reason="timed out")
    one.mark_exhausted(a)
    cut = two.attach(0, _step((1, 2), terminal=True, truncated=True))
    b = two.attach(0, _step((1, 2), action_mask=(False, True), log_probs=(-9.0, -9.0)))
    two.verdict[b] = Verdict(0.5, "3")
    two.prior[b] = {"output": -0.5}
    merged = merge([one, two])
    assert len(merged) == 3
    assert merged.step[a] == evolve(_step((1, 2)), action_mask=(False, True))
    assert merged.verdict[a] == Verdict(0.5, "3")
    assert merged.prior[a] == {"output": -0.5}
    assert not merged.exhausted[a]
    assert merged.step[2] == two.step[cut]
    other_way = merge([two, one, two])
    assert other_way.verdict[2] == Verdict(0.5, "3")
    two.verdict[b] = Verdict(None, reason="server down")
    assert merge([one, two]).verdict[a] == Verdict(None, reason="timed out")


def test_trees_that_do_not_belong_together_are_named() -> None:
    tree = _tree()
    other_words = [evolve(f, description=f.description + "!") for f in tree.grammar.functions.values()]
    small = Grammar([Function("end", "end")], start=["end"], followers={})
    default = Grammar.default()
    for what, wrong in {
        "id 'q'": SearchTree(Problem("q", "what?", "1"), tree.grammar),
        "question 'why": SearchTree(Problem("p", "why?", "1"), tree.grammar),
        "answer None": SearchTree(Problem("p", "what?"), tree.grammar),
        "max_depth 3": SearchTree(tree.problem, tree.grammar, 3),
        "functions": SearchTree(tree.problem, small),
        "functions .*plan the first step!": SearchTree(
            tree.problem, Grammar(other_words, default.start, default.followers)
        ),
        "followers": SearchTree(
            tree.problem,
            Grammar(
                default.functions.values(),
                default.start,
                {**default.followers, "verify": ["output", "refine"]},
            ),
        ),
    }.items():
        with pytest.raises(ValueError, match=f"tree 1 has the {what}"):
            merge([tree, wrong])
    with pytest.raises(ValueError, match="there are no trees"):
        merge([])


@given(searches(), st.data())
def test_committing_keeps_what_is_below_and_the_way_there(
    searched: Searched, data: st.DataObject
) -> None:
    _, [tree] = searched
    node = data.draw(st.integers(0, len(tree) - 1))
    before = copy.deepcopy(tree_to_json(tree))
    kept = commit_to(tree, node)
    here = tree.depth[node]
    _check_structure(kept)
    assert kept.path(here) == list(range(1, here + 1))
    assert kept.state(here) == tree.state(node)
    for above in range(here):
        assert (kept.visits[above], kept.ended[above]) == (tree.visits[node], 0)
        assert (kept.exhausted[above], kept.verdict[above]) == (not tree.is_open(node), None)
    below = [n for n in range(len(tree)) if node in (0, *tree.path(n))]
    assert len(kept) == here + len(below)
    for new, old in zip(range(here, len(kept)), below, strict=True):
        assert kept.state(new) == tree.state(old)
        for name in ("visits", "ended", "value_count", "value_sum", "prior", "verdict"):
            assert getattr(kept, name)[new] == getattr(tree, name)[old]
        if old != node:
            assert kept.exhausted[new] == tree.exhausted[old]
    assert (kept.rollouts, kept.rounds, kept.tokens) == (tree.rollouts, tree.rounds, tree.tokens)
    assert tree_to_json(tree) == before


@given(searches())
def test_committing_to_the_question_keeps_everything(searched: Searched) -> None:
    _, [tree] = searched
    assert _without_memo(commit_to(tree, 0)) == _without_memo(tree)


@given(searches(by=mcts), st.sampled_from([1.0, 0.5]), st.data())
def test_the_chain_has_the_totals_of_the_rollouts_through_the_step(
    searched: Searched, discount: float, data: st.DataObject
) -> None:
    _, [tree] = searched
    backed_up = SearchTree(tree.problem, tree.grammar, tree.max_depth)
    for step, parent in zip(tree.step[1:], tree.parent[1:], strict=True):
        assert step is not None
        backed_up.attach(parent, step)
    node = data.draw(st.integers(0, len(tree) - 1))
    through = copy.deepcopy(backed_up)
    for end in tree.ends():
        verdict = tree.verdict[end]
        for _ in range(tree.ended[end]):
            backed_up.backup(end, verdict.score if verdict else None, discount=discount)
            if node in (0, *tree.path(end)):
                through.backup(end, verdict.score if verdict else None, discount=discount)
    kept = commit_to(backed_up, node, discount=discount)
    for new, old in enumerate([0, *tree.path(node)]):
        assert (kept.visits[new], kept.value_count[new]) == (
            through.visits[old],
            through.value_count[old],
        )
        assert math.isclose(kept.value_sum[new], through.value_sum[old], abs_tol=1e-9)


@given(searches(by=searchers), st.data())
def test_a_search_goes_on_below_the_step_it_committed_to(
    searched: Searched, data: st.DataObject
) -> None:
    policy, [tree] = searched
    node = data.draw(st.integers(0, len(tree) - 1))
    kept = commit_to(tree, node)
    here, visits, rollouts = tree.depth[node], kept.visits[0], kept.rollouts
    was_open = not kept.exhausted[0]
    searcher = data.draw(searchers)
    resume_search(
        [kept],
        searcher,
        policy,
        MathVerifier(),
        SearchConfig(Budget(rollouts=rollouts + 6), max_depth=kept.max_depth),
    )
    _check_structure(kept)
    assert kept.visits[0] - visits == kept.rollouts - rollouts
    assert all(len(kept.children[above]) == 1 for above in range(here))
    if isinstance(searcher, MCTS) and was_open and kept.is_open(here) and not kept.children[here]:
        assert kept.rollouts > rollouts


@pytest.mark.parametrize("node", [-1, 1])
def test_there_must_be_a_step_to_commit_to(node: int) -> None:
    with pytest.raises(ValueError, match=f"tree 'p' has no node {node} to commit to"):
        commit_to(_tree(), node)
