"""Preference pairs from search trees: a better and a worse continuation of the same steps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import takewhile
from typing import Literal

from attrs import define, frozen

from rftt.learners.rollouts.judged import JudgedRollout, judged_rollouts
from rftt.search.tree.tree import SearchTree

_log = logging.getLogger(__name__)

Pairs = Literal["siblings", "paths"]
"""What is compared: two steps after the same steps, or two whole solutions."""


@frozen(eq=False)
class PreferencePair:
    """Two paths of a tree, of which one is better.

    Attributes:
        tree: the tree.
        chosen, rejected: the nodes at which the better and the worse path end.
        margin: how much larger the value of ``chosen`` is.
    """

    tree: SearchTree
    chosen: int
    rejected: int
    margin: float


@define
class _Step:
    """Equal children of a node, as one: what the policy does there, and how well that went."""

    node: int
    total: float = 0.0
    count: float = 0.0

    @property
    def value(self) -> float:
        return self.total / self.count


def preference_pairs(
    trees: Sequence[SearchTree], *, pairs: Pairs = "siblings", min_margin: float = 0.1
) -> list[PreferencePair]:
    """Return the preference pairs of trees, in the order of their nodes.

    Only judged rollouts count, each as often as it was drawn. Steps of equal ids are one step.

    * ``"siblings"``: at each node, the child of highest mean score against that of lowest. Their common
      steps are the prompt, and a pair ends with these two steps (step-DPO, arXiv 2406.18629, where the
      worse step is the first wrong one of a solution).
    * ``"paths"``: of each tree, the solution of highest score against that of lowest, the second
      highest against the second lowest, and so on; each solution is in one pair at most.

    Args:
        trees: search trees.
        pairs: what is compared.
        min_margin: least difference of mean scores. Of a value that is the mean of few rollouts, small
            differences are chance.

    Raises:
        ValueError: if ``min_margin`` is not above 0: then the better one would not be better.
    """
    if min_margin <= 0:
        raise ValueError(f"min_margin is {min_margin}; give a number above 0: equals have no better one")
    find = _sibling_pairs if pairs == "siblings" else _path_pairs
    found: list[PreferencePair] = []
    too_close = without_actions = 0
    for rollouts in judged_rollouts(trees):
        for pair in find(rollouts):
            if pair.margin < min_margin:
                too_close += 1
            elif not _both_have_actions(pair):
                without_actions += 1
            else:
                found.append(pair)
    if too_close or without_actions:
        _log.info(
            "left out %d of %d pairs: %d with a margin below %g, %d with a side that the policy did not "
            "draw",
            too_close + without_actions, too_close + without_actions + len(found),
            too_close, min_margin, without_actions,
        )  # fmt: skip
    return found


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the number of first ids that two sequences share."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _sibling_pairs(rollouts: Sequence[JudgedRollout]) -> list[PreferencePair]:
    if not rollouts:
        return []
    tree = rollouts[0].tree
    # A step is known by the ids of the steps down to it, so that equal children have their own children
    # compared with each other, too.
    Key = tuple[tuple[int, ...], ...]  # noqa: N806
    children: dict[Key, dict[Key, _Step]] = {}
    for rollout in rollouts:
        key: Key = ()
        for node in rollout.path:
            step = tree.step[node]
            assert step is not None
            parent, key = key, (*key, step.ids)
            child = children.setdefault(parent, {}).setdefault(key, _Step(node))
            child.total += rollout.count * rollout.score
            child.count += rollout.count
    return [
        _pair(tree, steps)
        for steps in (list(siblings.values()) for siblings in children.values())
        if len(steps) > 1
    ]


def _path_pairs(rollouts: Sequence[JudgedRollout]) -> list[PreferencePair]:
    if not rollouts:
        return []
    tree = rollouts[0].tree
    solutions: dict[tuple[int, ...], _Step] = {}
    for rollout in rollouts:
        solution = solutions.setdefault(_ids(tree, rollout.end), _Step(rollout.end))
        solution.total += rollout.count * rollout.score
        solution.count += rollout.count
    ranked = sorted(solutions.values(), key=lambda step: (-step.value, step.node))
    return [
        PreferencePair(tree, better.node, worse.node, better.value - worse.value)
        for better, worse in zip(ranked[: len(ranked) // 2], reversed(ranked), strict=False)
    ]


def _pair(tree: SearchTree, steps: Sequence[_Step]) -> PreferencePair:
    better = max(steps, key=lambda step: (step.value, -step.node))
    worse = min(steps, key=lambda step: (step.value, step.node))
    return PreferencePair(tree, better.node, worse.node, better.value - worse.value)


def _ids(tree: SearchTree, node: int) -> tuple[int, ...]:
    return tuple(i for step in tree.state(node).steps for i in step.ids)


def _both_have_actions(pair: PreferencePair) -> bool:
    """Return whether the policy drew something on each side after the ids that both share."""
    tree = pair.tree
    sides = (pair.chosen, pair.rejected)
    prefix = common_prefix(*(_ids(tree, node) for node in sides))
    masks = ([flag for step in tree.state(node).steps for flag in step.action_mask] for node in sides)
    return all(any(mask[prefix:]) for mask in masks)
