"""Trees made of other trees: several of one problem merged, or one cut down to a step it commits to.

Both give a new tree and leave the old ones as they are; the steps themselves are shared. What was
spent (``rollouts``, ``rounds``, ``tokens``) stays spent: a budget goes on counting from there, and
random streams, which are numbered by these counts, are never used twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve

from rftt.interfaces import Step, Verdict
from rftt.search.tree.tree import SearchTree

_Edge = tuple[int, str, tuple[int, ...], bool, bool]
"""A step as its merged parent sees it; two steps of the same edge are one."""


def merge(trees: Sequence[SearchTree]) -> SearchTree:
    """Merge what several searches found out about one problem into one tree.

    Nodes are one where their paths are: the same function and the same ids at each step from the
    question on, and the same end (a truncated step is not one that went on). That holds
    within a tree too: siblings that sampled the same ids become one. The first tree's numbers are kept
    as far as that allows, nodes that only later trees have follow.

    For each node of the result,

    * ``visits``, ``ended``, ``value_count`` and ``value_sum`` are sums;
    * ``verdict`` is the first that has a score, else the first that has an answer, else the first;
    * ``exhausted`` holds if it does in every tree that has the node: what one search left open is open,
      and a strategy that finds nothing to do there marks it again;
    * ``prior`` is the first that is known;
    * ``action_mask`` is set where the policy drew the id each time: where a searcher forced it once, too
      little is learned rather than something wrong;
    * ``log_probs`` are those of the first step, so learn from merged trees only where one policy at one
      temperature sampled them all.

    ``rollouts``, ``rounds`` and ``tokens`` are sums, so ``tokens`` also counts the ids of steps that
    became one. ``memo`` is empty, because what strategies remember names nodes by their old numbers:
    a strategy without a memo (MCTS) goes on from the merged tree, one with a memo begins anew on it.

    Raises ``ValueError`` if there is no tree, or naming the first tree that differs from tree 0 in its
    problem, grammar, ``max_depth`` or the steps that it committed to.
    """
    if not trees:
        raise ValueError("merge: there are no trees; give at least one")
    for number, tree in enumerate(trees):
        _check_alike(trees[0], number, tree)
    first = trees[0]
    merged = SearchTree(first.problem, first.grammar, first.max_depth)
    merged.mark_exhausted(0)
    found: dict[_Edge, int] = {}
    for tree in trees:
        place = [0]
        for step, parent in zip(tree.step[1:], tree.parent[1:], strict=True):
            assert step is not None
            place.append(_place(merged, found, place[parent], step))
        for old, new in enumerate(place):
            _add_figures(merged, new, tree, old)
    merged.start = first.start
    merged.rollouts = sum(tree.rollouts for tree in trees)
    merged.rounds = sum(tree.rounds for tree in trees)
    merged.tokens = sum(tree.tokens for tree in trees)
    return merged


def _check_alike(first: SearchTree, number: int, tree: SearchTree) -> None:
    grammar, other = first.grammar, tree.grammar
    for what, a, b in (
        ("id", first.problem.id, tree.problem.id),
        ("question", first.problem.question, tree.problem.question),
        ("answer", first.problem.answer, tree.problem.answer),
        ("metadata", first.problem.metadata, tree.problem.metadata),
        ("functions", list(grammar.functions.values()), list(other.functions.values())),
        ("start", grammar.start, other.start),
        ("followers", grammar.followers, other.followers),
        ("max_depth", first.max_depth, tree.max_depth),
        ("committed steps", _committed(first), _committed(tree)),
    ):
        if a != b:
            raise ValueError(
                f"merge: tree {number} has the {what} {b!r}, tree 0 has {a!r}; merge trees of one "
                "problem, searched with one grammar and one max_depth"
            )


def _committed(tree: SearchTree) -> list[tuple[str, str]]:
    steps = tree.state(tree.start).steps
    return [(step.function, step.text) for step in steps]


def _place(merged: SearchTree, found: dict[_Edge, int], parent: int, step: Step) -> int:
    """Return the merged node of a step: the one there is, or a new one."""
    edge = (parent, step.function, step.ids, step.terminal, step.truncated)
    node = found.get(edge)
    if node is None:
        node = found[edge] = merged.attach(parent, step)
        # Until a tree that has the node says otherwise.
        merged.mark_exhausted(node)
        return node
    known = merged.step[node]
    assert known is not None
    if known.action_mask != step.action_mask:
        both = (a and b for a, b in zip(known.action_mask, step.action_mask, strict=True))
        merged.step[node] = evolve(known, action_mask=both)
    return node


def _add_figures(merged: SearchTree, new: int, tree: SearchTree, old: int) -> None:
    merged.visits[new] += tree.visits[old]
    merged.ended[new] += tree.ended[old]
    merged.value_count[new] += tree.value_count[old]
    merged.value_sum[new] += tree.value_sum[old]
    merged.exhausted[new] = merged.exhausted[new] and tree.exhausted[old]
    merged.verdict[new] = max(merged.verdict[new], tree.verdict[old], key=_says)
    if merged.prior[new] is None:
        merged.prior[new] = tree.prior[old]


def _says(verdict: Verdict | None) -> tuple[bool, bool, bool]:
    """Rank a verdict by how much it says; of equals, ``max`` keeps the first."""
    if verdict is None:
        return False, False, False
    return verdict.score is not None, verdict.answer is not None, True


def commit_to(tree: SearchTree, node: int, *, discount: float = 1.0) -> SearchTree:
    """Cut a tree down to a step that its search commits to, and all below it.

    The question stays the root, and the steps down to ``node`` stay as a chain without side branches,
    because policies and verifiers read the whole path; ``node`` is the new tree's ``start``, and its
    number there is its depth. Only rollouts through ``node`` count. On the chain above it nothing ended
    and nothing is judged. ``exhausted`` is copied below, and on the chain as at ``node``. ``memo`` is
    empty, as after :func:`merge`.

    To go on, with any strategy, give the result to ``resume_search`` with a larger budget: what was
    spent before counts. A strategy that had declared the search over takes it up again below ``node``,
    unless there is nothing left there.

    Args:
        tree: the search so far.
        node: the step to commit to; 0 keeps everything.
        discount: the searcher's factor on a score for each step it is backed up; it gives the chain
            the totals that the rollouts through ``node`` brought it.

    Raises:
        ValueError: if the tree has no such node.
    """
    if not 0 <= node < len(tree):
        raise ValueError(
            f"tree {tree.problem.id!r} has no node {node} to commit to; it has 0 to {len(tree) - 1}"
        )
    kept = SearchTree(tree.problem, tree.grammar, tree.max_depth)
    place = {0: 0}
    for old in tree.path(node):
        place[old] = _copy_step(kept, place[tree.parent[old]], tree, old)
    for old in range(node + 1, len(tree)):
        if tree.parent[old] in place and tree.parent[old] >= node:
            place[old] = _copy_step(kept, place[tree.parent[old]], tree, old)
    for old, new in place.items():
        if old >= node:
            _copy_figures(kept, new, tree, old)
    kept.start = place[node]
    if not kept.is_open(kept.start):
        # Nothing can grow at the end of a solution: there the search is over.
        kept.mark_exhausted(kept.start)
    _count_on_chain(kept, discount)
    kept.rollouts, kept.rounds, kept.tokens = tree.rollouts, tree.rounds, tree.tokens
    return kept


def _copy_step(kept: SearchTree, parent: int, tree: SearchTree, old: int) -> int:
    step = tree.step[old]
    assert step is not None
    return kept.attach(parent, step)


def _copy_figures(kept: SearchTree, new: int, tree: SearchTree, old: int) -> None:
    kept.visits[new] = tree.visits[old]
    kept.ended[new] = tree.ended[old]
    kept.value_count[new] = tree.value_count[old]
    kept.value_sum[new] = tree.value_sum[old]
    kept.prior[new] = tree.prior[old]
    kept.verdict[new] = tree.verdict[old]
    kept.exhausted[new] = tree.exhausted[old]


def _count_on_chain(kept: SearchTree, discount: float) -> None:
    """Fill in the nodes above the start from the one below each."""
    node = kept.start
    while node > 0:
        above = kept.parent[node]
        kept.visits[above] = kept.visits[node]
        kept.value_count[above] = kept.value_count[node]
        kept.value_sum[above] = kept.value_sum[node] * discount
        kept.exhausted[above] = kept.exhausted[node]
        node = above
