"""Scores of nodes, for strategies that keep the best of many: functions that are passed in."""

from __future__ import annotations

import math
from collections.abc import Callable

from rftt.search.tree.tree import SearchTree

NodeScore = Callable[[SearchTree, int], float]
"""``score(tree, node)``; larger is better."""


def mean_log_prob(tree: SearchTree, node: int) -> float:
    """Return the mean log-probability of the ids on the path to a node, 0 at the question."""
    log_probs = [p for step in tree.state(node).steps for p in step.log_probs]
    return sum(log_probs) / len(log_probs) if log_probs else 0.0


def verifier_score(tree: SearchTree, node: int) -> float:
    """Return the verifier's score of the path to a node; minus infinity where there is none.

    For a searcher with ``scores_partial`` and a verifier that scores unfinished paths.
    """
    verdict = tree.verdict[node]
    return -math.inf if verdict is None or verdict.score is None else verdict.score


def mean_value(tree: SearchTree, node: int) -> float:
    """Return the mean score of rollouts through a node; minus infinity where none was scored."""
    value = tree.value(node)
    return -math.inf if value is None else value
