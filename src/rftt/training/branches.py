"""What warm-up data is made of: the right and the wrong paths of a searched tree."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from rftt.search.scores import known_log_probs
from rftt.search.tree.tree import SearchTree


@frozen
class PathEnds:
    """Nodes at which the rollouts of a tree ended.

    Attributes:
        right: those with score 1 and an answer.
        wrong: those with score 0.
        neither: the others: without a verdict, abstained on, scored in between, or without an answer.
    """

    right: list[int]
    wrong: list[int]
    neither: list[int]


def path_ends(tree: SearchTree) -> PathEnds:
    """Sort the ends of a tree's rollouts by their verdicts."""
    ends = PathEnds([], [], [])
    for node in tree.ends():
        verdict = tree.verdict[node]
        if verdict is not None and verdict.score == 1 and verdict.answer is not None:
            ends.right.append(node)
        elif verdict is not None and verdict.score == 0:
            ends.wrong.append(node)
        else:
            ends.neither.append(node)
    return ends


def distinct_paths(tree: SearchTree, ends: Sequence[int]) -> list[int]:
    """Return one end for each different text of a path, the last of equal ones."""
    return list({tuple(tree.text(n) for n in tree.path(end)): end for end in ends}.values())


def min_step_log_prob(tree: SearchTree, end: int) -> float:
    """Return the log-probability of the least likely step on the path to an end."""
    return min(sum(known_log_probs(tree, node)) for node in tree.path(end) if node)


def first_wrong_step(tree: SearchTree, end: int) -> int | None:
    """Return the first step on the path to a wrong end below which no rollout was right, if a rollout
    through its parent was."""
    wrong = [node for node in tree.path(end) if tree.value_sum[node] == 0]
    return wrong[0] if wrong and tree.value_sum[tree.parent[wrong[0]]] > 0 else None
