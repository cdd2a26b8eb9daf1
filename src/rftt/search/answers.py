"""Choosing one answer from a tree.

Answers are compared as the verifier wrote them in ``Verdict.answer``, whose text is the same for
equal answers. None of these functions reads the problem's gold answer.
"""

from __future__ import annotations

from collections.abc import Iterator

from rftt.search.scores import NodeScore, mean_value, verifier_score
from rftt.search.tree import SearchTree


def answered(tree: SearchTree) -> Iterator[tuple[int, str]]:
    """Each rollout that reached an answer: the node it ended at, and the answer."""
    for node in tree.ends():
        verdict = tree.verdict[node]
        if verdict is not None and verdict.answer is not None:
            for _ in range(tree.ended[node]):
                yield node, verdict.answer


def majority(tree: SearchTree) -> str | None:
    """The answer that most rollouts reached (the first found of equals), ``None`` if none did."""
    return weighted(tree, lambda _tree, _node: 1.0)


def weighted(tree: SearchTree, weight: NodeScore) -> str | None:
    """The answer with the largest sum of weights, ``None`` if no rollout reached an answer."""
    votes: dict[str, float] = {}
    for node, answer in answered(tree):
        votes[answer] = votes.get(answer, 0.0) + weight(tree, node)
    return max(votes, key=lambda answer: votes[answer], default=None)


def best(tree: SearchTree, weight: NodeScore | None = None) -> str | None:
    """The answer of the rollout with the largest weight; by default the verifier's score, where an
    abstention ranks below every score."""
    rank = weight or verifier_score
    return max(answered(tree), key=lambda end: rank(tree, end[0]), default=(0, None))[1]


def most_valuable(tree: SearchTree) -> str | None:
    """The answer that the tree's values lead to: from the question always on to the child with the
    largest mean score (more visits decide between equals), to an end. ``None`` if that has no
    answer."""
    node = 0
    while tree.children(node):
        node = max(tree.children(node), key=lambda child: (mean_value(tree, child), tree.visits[child]))
    verdict = tree.verdict[node]
    return None if verdict is None else verdict.answer
