"""Choose one answer from a tree.

Answers are grouped by an equivalence, such as a verifier's ``equivalent``. None of these functions
reads the problem's gold answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from rftt.search.scores import NodeScore, mean_value, verifier_score
from rftt.search.tree.tree import SearchTree

Equivalence = Callable[[str, str], bool | None]
"""``equivalent(a, b)``: whether two answers are the same, ``None`` if that cannot be decided."""

Choice = Callable[[SearchTree, Equivalence], str | None]
"""``choose(tree, equivalent)``: an answer of the tree, ``None`` if it has none."""

AnswerGroup: TypeAlias = list[tuple[int, str]]
"""Equivalent answers as :func:`answered` yields them: the node of each, and the answer."""


def same_text(a: str, b: str) -> bool:
    """Compare two answers by their texts."""
    return a.strip() == b.strip()


def answered(tree: SearchTree) -> Iterator[tuple[int, str]]:
    """Yield each rollout that reached an answer: the node it ended at, and the answer.

    What an unfinished solution says is no answer, be it a step on the way that was judged, or a last one
    that a limit truncated. A rollout that was not judged has none either.
    """
    for node in tree.ends():
        verdict = tree.verdict[node]
        if tree.is_finished(node) and verdict is not None and verdict.answer is not None:
            for _ in range(tree.ended[node]):
                yield node, verdict.answer


def group_answers(answers: Iterable[tuple[int, str]], equivalent: Equivalence) -> list[AnswerGroup]:
    """Group answers that are equivalent to the first of a group, in order of first appearance.

    An answer whose equivalence cannot be decided opens a group of its own. Each text is compared once.
    """
    groups: list[AnswerGroup] = []
    group_of: dict[str, AnswerGroup] = {}
    for node, answer in answers:
        text = answer.strip()
        group = group_of.get(text)
        if group is None:
            group = next((group for group in groups if equivalent(group[0][1], answer) is True), None)
            if group is None:
                groups.append(group := [])
            group_of[text] = group
        group.append((node, answer))
    return groups


def majority(tree: SearchTree, equivalent: Equivalence = same_text) -> str | None:
    """Return the answer that most rollouts reached (the first found of equals), ``None`` if none did."""
    return weighted(tree, _one_vote, equivalent)


def _one_vote(tree: SearchTree, node: int) -> float:
    return 1.0


def weighted(tree: SearchTree, weight: NodeScore, equivalent: Equivalence = same_text) -> str | None:
    """Return the answer with the largest sum of weights (the first found of equals), ``None`` if no
    rollout reached an answer."""

    def total(group: AnswerGroup) -> float:
        return sum(weight(tree, node) for node, _ in group)

    return _first_text(max(group_answers(answered(tree), equivalent), key=total, default=None))


def best(
    tree: SearchTree, equivalent: Equivalence = same_text, *, weight: NodeScore = verifier_score
) -> str | None:
    """Return the answer of the rollout with the largest weight, ``None`` if no rollout reached one.

    The default weight is the verifier's score; an abstention ranks below every score.
    """

    def largest(group: AnswerGroup) -> float:
        return max(weight(tree, node) for node, _ in group)

    return _first_text(max(group_answers(answered(tree), equivalent), key=largest, default=None))


def most_valuable(tree: SearchTree, equivalent: Equivalence = same_text) -> str | None:
    """Return the answer that the tree's values lead to, ``None`` if they lead to none.

    The path goes from the question always on to the child with the largest mean score (more visits
    decide between equals), to an end.
    """
    node = 0
    while tree.children[node]:
        node = max(tree.children[node], key=lambda child: (mean_value(tree, child), tree.visits[child]))
    groups = group_answers(answered(tree), equivalent)
    return _first_text(next((group for group in groups if any(end == node for end, _ in group)), None))


def _first_text(group: AnswerGroup | None) -> str | None:
    return group[0][1] if group else None
