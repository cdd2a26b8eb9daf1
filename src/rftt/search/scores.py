"""What a node is worth to strategies that keep the best of many: functions that are passed in."""

from __future__ import annotations

import math
from collections.abc import Callable

from rftt.search.tree import SearchTree

NodeScore = Callable[[SearchTree, int], float]
"""``score(tree, node)``; larger is better."""


def mean_log_prob(tree: SearchTree, node: int) -> float:
    """Mean log-probability of the ids on the path to a node: how sure the policy was, whatever the
    path's length."""
    log_probs = [p for segment in tree.solution(node).steps for p in segment.log_probs]
    return sum(log_probs) / len(log_probs) if log_probs else 0.0


def verifier_score(tree: SearchTree, node: int) -> float:
    """The verifier's score of the path to a node; minus infinity where there is none. For a searcher
    with ``judges_steps`` and a verifier that scores unfinished paths."""
    verdict = tree.verdict[node]
    return -math.inf if verdict is None or verdict.score is None else verdict.score


def mean_value(tree: SearchTree, node: int) -> float:
    """The mean score of rollouts through a node; minus infinity where none was judged."""
    value = tree.value(node)
    return -math.inf if value is None else value
