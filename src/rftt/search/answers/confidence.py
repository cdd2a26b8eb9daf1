"""Confidence of solutions by the probabilities of their tokens, and votes of the confident ones.

After DeepConf (Fu et al. 2025, arXiv 2508.15260). There the confidence of a token is minus the mean
log-probability of its ``k`` likeliest alternatives. A step holds the log-probability of the sampled
token alone, so here a token's confidence is that, and a group of tokens has the geometric mean of their
probabilities, in (0, 1]. Forced tokens are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import compress

import numpy as np
from attrs import field, frozen, validators

from rftt.search.answers.voting import Equivalence, answered, group_answers, same_text
from rftt.search.scores import NodeScore, known_log_probs
from rftt.search.tree.tree import SearchTree


def sampled_log_probs(tree: SearchTree, node: int) -> list[float]:
    """Return the log-probability of each sampled token on the path to a node.

    Raises:
        ValueError: if one is NaN; see :func:`~rftt.search.scores.known_log_probs`.
    """
    found: list[float] = []
    for on_path in tree.path(node):
        step = tree.step[on_path]
        if step is not None:
            known = known_log_probs(tree, on_path)
            found += compress(known, step.action_mask)
    return found


def group_means(log_probs: Sequence[float], window: int) -> list[float]:
    """Return the mean of each ``window`` successive values: of all of them if they are fewer, nothing if
    there is none."""
    if not log_probs:
        return []
    window = min(window, len(log_probs))
    sums = np.cumsum([0.0, *log_probs])
    means: list[float] = ((sums[window:] - sums[:-window]) / window).tolist()
    return means


@frozen
class LowestGroupConfidence:
    """The confidence of the least confident group of a path (the paper's lowest group confidence).

    Attributes:
        window: tokens of a group. The default is the paper's, for solutions of many thousand tokens.
    """

    window: int = field(default=2048, validator=validators.ge(1))

    def __call__(self, tree: SearchTree, node: int) -> float:
        return math.exp(min(group_means(sampled_log_probs(tree, node), self.window), default=0.0))


@frozen
class BottomGroupConfidence:
    """The mean confidence of the least confident groups of a path (the paper's bottom 10%).

    Attributes:
        window: tokens of a group. The default is the paper's, for solutions of many thousand tokens.
        share: of the groups that are looked at, rounded down, but one at the least.
    """

    window: int = field(default=2048, validator=validators.ge(1))
    share: float = field(default=0.1, validator=[validators.gt(0), validators.le(1)])

    def __call__(self, tree: SearchTree, node: int) -> float:
        groups = sorted(group_means(sampled_log_probs(tree, node), self.window))
        bottom = groups[: max(1, int(len(groups) * self.share))]
        return math.exp(sum(bottom) / len(bottom)) if bottom else 1.0


@frozen
class TailConfidence:
    """The confidence of the last tokens of a path (the paper's tail confidence).

    Attributes:
        window: how many tokens. The default is the paper's, for solutions of many thousand tokens.
    """

    window: int = field(default=2048, validator=validators.ge(1))

    def __call__(self, tree: SearchTree, node: int) -> float:
        groups = group_means(sampled_log_probs(tree, node), self.window)
        return math.exp(groups[-1]) if groups else 1.0


def confidence_bar(confidences: Sequence[float], kept: float) -> float:
    """Return the confidence that the share ``kept`` of solutions reaches: the percentile
    ``100 * (1 - kept)``, interpolated between the two nearest as numpy does."""
    return float(np.quantile(confidences, 1 - kept))


@frozen
class ConfidenceVote:
    """A choice of the answer by a vote of the most confident solutions (DeepConf offline).

    Solutions whose confidence is among the largest vote, each with its confidence as weight.

    Attributes:
        confidence: of the path to a solution's end.
        kept: the share of solutions that vote. The paper uses 0.1 and 0.9.
    """

    confidence: NodeScore = field(factory=BottomGroupConfidence)
    kept: float = field(default=0.1, validator=[validators.gt(0), validators.le(1)])

    def __call__(self, tree: SearchTree, equivalent: Equivalence = same_text) -> str | None:
        confidences = [self.confidence(tree, node) for node, _ in answered(tree)]
        if not confidences:
            return None
        bar = confidence_bar(confidences, self.kept)
        return vote_above(tree, self.confidence, bar, equivalent)[0]


def vote_above(
    tree: SearchTree, confidence: NodeScore, bar: float, equivalent: Equivalence
) -> tuple[str | None, float]:
    """Hold the vote of all solutions whose confidence reaches ``bar``, weighted by it.

    Returns:
        The answer, ``None`` if no solution votes, and its share of all weight.
    """
    weights: dict[int, float] = {}
    for node, _ in answered(tree):
        if node not in weights and (weight := confidence(tree, node)) >= bar:
            weights[node] = weight
    voters = [(node, answer) for node, answer in answered(tree) if node in weights]
    groups = group_answers(voters, equivalent)
    totals = [math.fsum(weights[node] for node, _ in group) for group in groups]
    if not totals:
        return None, 0.0
    first = totals.index(max(totals))
    return groups[first][0][1], totals[first] / math.fsum(totals)
