"""Scores of nodes, for strategies that keep the best of many: functions that are passed in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

from rftt.aggregation import Aggregation
from rftt.search.tree.tree import SearchTree

NodeScore = Callable[[SearchTree, int], float]
"""``score(tree, node)``; larger is better, minus infinity where there is none, never NaN."""


def known_log_probs(tree: SearchTree, node: int) -> list[float]:
    """Return the log-probabilities of the ids of a node's step, without that of a stop at its end that a
    server left out.

    Raises:
        ValueError: naming problem and node, if another is NaN.
    """
    step = tree.step[node]
    known = [] if step is None else [*step.log_probs]
    if step is not None and len(known) > 1 and math.isnan(known[-1]) and not step.truncated:
        known.pop()
    if any(map(math.isnan, known)):
        raise ValueError(
            f"problem {tree.problem.id!r}, node {node}: log-probabilities are NaN, because the server "
            "does not report those of the distribution drawn from; see ServerSampler, or take a "
            "strategy that needs none"
        )
    return known


def mean_log_prob(tree: SearchTree, node: int) -> float:
    """Return the mean log-probability of the ids on the path to a node, 0 at the question.

    Raises:
        ValueError: if one is NaN; see :func:`known_log_probs`.
    """
    log_probs = [p for on_path in tree.path(node) for p in known_log_probs(tree, on_path)]
    return sum(log_probs) / len(log_probs) if log_probs else 0.0


def mean_prob(tree: SearchTree, node: int) -> float:
    """Return the geometric mean of the probabilities of the ids on the path to a node, in [0, 1]; 1 at
    the question."""
    return math.exp(mean_log_prob(tree, node))


def verifier_score(tree: SearchTree, node: int) -> float:
    """Return the verifier's score of the path to a node; minus infinity where there is none.

    For a searcher with ``scores_partial`` and a verifier that scores unfinished paths.
    """
    verdict = tree.verdict[node]
    return -math.inf if verdict is None or verdict.score is None else verdict.score


def step_score(aggregation: Aggregation) -> NodeScore:
    """Make a score of the verifier's scores of the steps on the path to a node.

    It is minus infinity where the verifier was not asked, abstained or scores no steps. For a searcher
    with ``scores_partial`` and a process reward model::

        BeamSearch(score=step_score(minimum), scores_partial=True)

    Args:
        aggregation: makes one number of the scores of the steps, such as those of
            :mod:`rftt.aggregation`: ``last``, ``minimum``, ``product`` and ``mean``.
    """
    return partial(_aggregated, aggregation)


def _aggregated(aggregation: Aggregation, tree: SearchTree, node: int) -> float:
    verdict = tree.verdict[node]
    scores = None if verdict is None else verdict.step_scores
    return aggregation(scores) if scores else -math.inf


def mean_value(tree: SearchTree, node: int) -> float:
    """Return the mean score of rollouts through a node; minus infinity where none was scored."""
    value = tree.value(node)
    return -math.inf if value is None else value


def score_node(score: NodeScore, tree: SearchTree, node: int) -> float:
    """Return a node's score.

    Raises:
        ValueError: naming the score and the node, if it is NaN: nothing can be ranked by it.
    """
    found = score(tree, node)
    if math.isnan(found):
        name = getattr(score, "__name__", repr(score))
        raise ValueError(
            f"tree {tree.problem.id!r}: the score {name} of node {node} is NaN; return -math.inf where "
            "there is none"
        )
    return found


def without_copies(tree: SearchTree, nodes: Iterable[int]) -> list[int]:
    """Return the nodes in order, without those whose step is the same as that of an earlier sibling
    among them: the same function, ids and text.

    A policy that is sure samples one step many times, and each sample is a node. A strategy that keeps
    a number of paths would otherwise keep one path as often (search-and-learn's ``filter_duplicates``).
    """
    first: dict[tuple[object, ...], int] = {}
    for node in nodes:
        step = tree.step[node]
        key = (tree.parent[node], step and (step.function, step.ids, step.text))
        first.setdefault(key, node)
    return list(first.values())
