"""What is wrong with a tree, with what is asked, or with what a strategy wrote: pure functions.

Each yields the promises that are broken, the most telling first, and raises nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from rftt.search.answers.voting import best
from rftt.search.searcher import Expansion
from rftt.search.tree.tree import SearchTree
from rftt.testing.searcher.promises import (
    AnswerBroken,
    BudgetBroken,
    CommitmentBroken,
    ContractViolation,
    DiscountBroken,
    ExhaustedBroken,
    GrammarBroken,
    RequestBroken,
    ResumeBroken,
    StructureBroken,
    ValuesBroken,
    VisitsBroken,
)

Faults = Iterator[ContractViolation]

_PARTIAL: Final = (
    ". Scores come from the verifier alone: to have unfinished completions judged, set "
    "`scores_partial = True` on the strategy, and keep figures of its own in tree.memo"
)
_NAME_THE_FACTOR: Final = (
    ". Back up each score as it is, or, if scores shrink by a factor for each step upwards, make the "
    "factor an attribute named `discount`"
)

_MOST_COMPLETIONS: Final = 100_000
"""The most completions of one round that the engine takes where the budget does not say."""
_COUNTERS = ("rollouts", "rounds", "tokens", "budget")
_FIXED = (
    "parent", "depth", "children", "step", "prior", "verdict",
    "problem", "grammar", "max_depth", "start",
)  # fmt: skip


def touch_faults(before: SearchTree, tree: SearchTree) -> Faults:
    """Yield what a strategy did to a tree that it may not do; ``before`` is a copy of the tree."""
    added = len(tree) - len(before)
    if added:
        yield BudgetBroken(f"{added} nodes came on the tree that the engine did not put there")
    for name in _COUNTERS:
        was, now = getattr(before, name), getattr(tree, name)
        if now != was:
            yield BudgetBroken(f"tree.{name} was {was} and is {now}; the engine sets it")
    for name in _FIXED:
        if getattr(tree, name) != getattr(before, name):
            yield StructureBroken(f"tree.{name} was changed by the strategy")
    for node, was in enumerate(before.exhausted):
        if was and not tree.exhausted[node]:
            yield ExhaustedBroken(f"node {node} was exhausted and is not any more")


def request_faults(tree: SearchTree, asked: Any) -> Faults:
    """Yield what is wrong with what ``ask`` returned, before anything is made of it."""
    if not isinstance(asked, list | tuple):
        yield RequestBroken(
            f"ask returned a {type(asked).__name__}; return a list of Expansion, empty if the search is "
            "over"
        )
        return
    others = [each for each in asked if not isinstance(each, Expansion)]
    if others:
        yield RequestBroken(
            f"ask returned {others[0]!r:.60}, a {type(others[0]).__name__}, among its expansions; "
            "return Expansion(node, ...)"
        )


def size_faults(tree: SearchTree, expansions: Sequence[Expansion]) -> Faults:
    """Yield what is wrong with how much is asked for in one round."""
    count, limit = sum(each.count for each in expansions), tree.budget.rollouts
    if count > max(_MOST_COMPLETIONS, limit or 0):
        bought = "" if limit is None else f", and the budget has {limit - tree.rollouts} rollouts left"
        yield RequestBroken(
            f"{count} completions are asked for in one round{bought}; ask for what can be sampled: "
            "tree.budget says how much that is"
        )


def expansion_faults(tree: SearchTree, expansions: Sequence[Expansion]) -> Faults:
    """Yield what is wrong with what a strategy asks for."""
    for expansion in expansions:
        node = expansion.node
        if not 0 <= node < len(tree):
            yield GrammarBroken(f"node {node} is asked for; the tree has nodes 0 to {len(tree) - 1}")
            continue
        if node < tree.start:
            yield CommitmentBroken(f"node {node} is asked for; the search begins at node {tree.start}")
        if tree.is_terminal(node):
            yield GrammarBroken(f"node {node} is asked for; it is terminal")
        if tree.depth[node] >= tree.max_depth:
            yield GrammarBroken(f"node {node} is asked for; it is at the depth limit {tree.max_depth}")
        if expansion.function is not None and expansion.function not in tree.legal(node):
            legal = ", ".join(tree.legal(node)) or "nothing"
            yield GrammarBroken(
                f"{expansion.function!r} is asked for at node {node}, where {legal} may follow"
            )
        above = node
        while above >= 0:
            if tree.exhausted[above]:
                where = "exhausted" if above == node else f"below node {above}, which is exhausted"
                yield ExhaustedBroken(f"node {node} is asked for; it is {where}")
            above = tree.parent[above]


def tree_faults(
    tree: SearchTree,
    discount: float = 1.0,
    *,
    has_discount: bool = True,
    scores_partial: bool = True,
) -> Faults:
    """Yield what is wrong with a tree that a strategy has been told all about.

    Its figures are compared with those that its verdicts give. Trees that were merged from several do
    not pass: a node of theirs stands for more than one completion.

    Args:
        tree: the tree.
        discount: factor on a score for each step that it was backed up.
        has_discount: whether the strategy names a factor; else a message says how it would.
        scores_partial: whether unfinished completions were judged; else a message says how they are.
    """
    yield from _structure_faults(tree)
    yield from _visit_faults(tree)
    yield from _value_faults(tree, discount, has_discount, scores_partial)
    yield from _answer_faults(tree)
    try:
        json.dumps(tree.memo)
    except (TypeError, ValueError) as error:
        yield ResumeBroken(f"memo cannot be saved: {error}")


def _structure_faults(tree: SearchTree) -> Faults:
    if tree.parent[0] != -1 or tree.depth[0] != 0:
        yield StructureBroken("node 0 is not a root")
    for node in range(1, len(tree)):
        parent = tree.parent[node]
        if not 0 <= parent < node:
            yield StructureBroken(f"node {node} has parent {parent}; a parent's number is smaller")
        elif tree.depth[node] != tree.depth[parent] + 1 or node not in tree.children[parent]:
            yield StructureBroken(f"node {node} is not one step below its parent {parent}")
        elif tree.is_terminal(parent):
            yield GrammarBroken(f"node {parent} is terminal and has the child {node}")
        if tree.depth[node] > tree.max_depth:
            yield GrammarBroken(f"node {node} is deeper than {tree.max_depth}")
        step = tree.step[node]
        if step is None or step.function not in tree.legal(parent):
            yield GrammarBroken(f"the step of node {node} may not follow node {parent}")


def _visit_faults(tree: SearchTree) -> Faults:
    judged = sum(verdict is not None for verdict in tree.verdict)
    for node, (ended, verdict) in enumerate(zip(tree.ended, tree.verdict, strict=True)):
        if verdict is not None and ended != 1:
            yield VisitsBroken(f"one completion was judged at node {node}; {ended} are counted")
        if verdict is None and not 0 <= ended <= (node > 0):
            yield VisitsBroken(
                f"{ended} completions are counted as ended at node {node}; none was judged there"
            )
    for node, visits in enumerate(tree.visits):
        below = sum(tree.visits[child] for child in tree.children[node])
        if visits != tree.ended[node] + below:
            ended = tree.ended[node]
            yield VisitsBroken(f"node {node} has {visits} visits; {ended} ended there, {below} below")
    if not judged <= tree.visits[0] <= tree.rollouts:
        yield VisitsBroken(
            f"the root has {tree.visits[0]} visits; of {tree.rollouts} completions {judged} were judged"
        )


def _value_faults(tree: SearchTree, discount: float, has_discount: bool, scores_partial: bool) -> Faults:
    count, total = [0] * len(tree), [0.0] * len(tree)
    size = [0.0] * len(tree)
    for node in reversed(range(len(tree))):
        verdict = tree.verdict[node]
        if verdict is not None and verdict.score is not None:
            count[node] += 1
            total[node] += verdict.score
            size[node] += abs(verdict.score)
        if node:
            parent = tree.parent[node]
            count[parent] += count[node]
            total[parent] += discount * total[node]
            size[parent] += size[node]
    scores = [v.score for v in tree.verdict if v is not None and v.score is not None]
    if discount != 1:
        scores.append(0.0)
    for node in range(len(tree)):
        if tree.value_count[node] != count[node]:
            more = tree.value_count[node] > count[node]
            yield ValuesBroken(
                f"node {node} has {tree.value_count[node]} scored rollouts; at and below it are "
                f"{count[node]}{_PARTIAL if more and not scores_partial else ''}"
            )
        value = tree.value(node)
        slack = 1e-9 * (1 + size[node])
        if not math.isclose(tree.value_sum[node], total[node], abs_tol=slack, rel_tol=0):
            found = f"node {node} has the sum {tree.value_sum[node]:g}; the scores at and below it give"
            if discount == 1:
                hint = "" if has_discount else _NAME_THE_FACTOR
                yield ValuesBroken(f"{found} {total[node]:g}{hint}")
            else:
                yield DiscountBroken(
                    f"{found} {total[node]:g} with the discount {discount:g}; back up with "
                    "tree.backup(node, score, discount=self.discount)"
                )
        low, high = min(scores, default=-math.inf) - slack, max(scores, default=math.inf) + slack
        if value is not None and not low <= value <= high:
            yield ValuesBroken(
                f"node {node} has the value {value:g}; scores were {min(scores):g} to {max(scores):g}"
            )


def _answer_faults(tree: SearchTree) -> Faults:
    found = [
        verdict
        for node, verdict in enumerate(tree.verdict)
        if verdict is not None and verdict.answer is not None and tree.is_finished(node)
    ]
    if found:
        ranks = [-math.inf if v.score is None else v.score for v in found]
        top = {v.answer for v, rank in zip(found, ranks, strict=True) if rank == max(ranks)}
        given = best(tree)
        if given not in top:
            best_sampled = min(map(str, top))
            yield AnswerBroken(f"the best answer sampled is {best_sampled!r}; the tree gives {given!r}")
