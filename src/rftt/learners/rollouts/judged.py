"""The rollouts of search trees that a learner may learn from, and what is left out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal

from attrs import frozen

from rftt.interfaces import Verdict
from rftt.search.tree.tree import SearchTree

_log = logging.getLogger(__name__)

EndKind = Literal["judged", "truncated", "unjudged", "abstained", "partial"]
"""What a learner may make of an end: learn from it, or leave it out for one of four reasons."""

_REASONS: Final = {
    "truncated": "truncated",
    "partial": "stopped midway",
    "abstained": "on which the verifier abstained",
    "unjudged": "without a verdict",
}

EQUAL_SCORES: Final = 1e-9
"""Scores that differ by no more are equal: a sum of some ten parts of order 1 is rounded by far less."""


@frozen(eq=False)
class JudgedRollout:
    """A complete solution of a tree that the verifier gave a score.

    Attributes:
        tree: the tree.
        end: the node at which the solution ended.
        count: the number of rollouts that ended there; more than 1 in merged trees alone.
        verdict: the verdict on it.
        score: the verdict's score.
    """

    tree: SearchTree
    end: int
    count: int
    verdict: Verdict
    score: float

    @property
    def path(self) -> list[int]:
        """Its nodes, first step first."""
        return self.tree.path(self.end)

    @property
    def tokens(self) -> int:
        """The ids on its path that the policy sampled."""
        steps = self.tree.step
        return sum([sum(step.action_mask) for node in self.path if (step := steps[node]) is not None])


def end_kind(tree: SearchTree, end: int) -> EndKind:
    """Return what a learner may make of the rollouts that ended at a node.

    * ``"truncated"``: a limit cut the last step. Whatever the verifier read in it (a box in half a
      sentence) is neither a success nor a failure of the policy.
    * ``"unjudged"``: there is no verdict, as where the budget cut the solution.
    * ``"abstained"``: the verdict has no score.
    * ``"partial"``: the solution was scored midway, as a beam search does or at the depth limit.
    * ``"judged"``: the policy ended its solution, and the verdict has a score.
    """
    step, verdict = tree.step[end], tree.verdict[end]
    if step is not None and step.truncated:
        return "truncated"
    if verdict is None:
        return "unjudged"
    if verdict.score is None:
        return "abstained"
    return "judged" if step is not None and step.terminal else "partial"


def judged_rollouts(trees: Sequence[SearchTree], *, log: bool = True) -> list[list[JudgedRollout]]:
    """Return each tree's judged rollouts, one for each node at which a complete solution ended.

    All other ends are left out, for the reasons of :func:`end_kind`: none of them is a failure.

    Args:
        trees: search trees.
        log: whether what is left out is logged, with counts by reason: as a warning where the verifier
            abstained, because that may be a fault of the verifier.
    """
    rollouts: list[list[JudgedRollout]] = []
    left_out: Counter[str] = Counter()
    for tree in trees:
        judged = []
        for end in tree.ends():
            kind, verdict = end_kind(tree, end), tree.verdict[end]
            if kind != "judged" or verdict is None or verdict.score is None:
                left_out[kind] += tree.ended[end]
            else:
                judged.append(JudgedRollout(tree, end, tree.ended[end], verdict, float(verdict.score)))
        rollouts.append(judged)
    if log and left_out:
        _log.log(
            logging.WARNING if left_out["abstained"] else logging.INFO,
            "left out %d of %d rollouts: %s",
            left_out.total(),
            sum(sum(tree.ended) for tree in trees),
            ", ".join(f"{left_out[kind]} {said}" for kind, said in _REASONS.items() if left_out[kind]),
        )
    return rollouts


def equal_outcomes(rollouts: Sequence[JudgedRollout]) -> bool:
    """Return whether all rollouts of a group have the same score: comparing them teaches nothing.

    It is the outcome that is compared. Rewards of steps would keep a group alive in which every solution
    is wrong.
    """
    scores = [rollout.score for rollout in rollouts]
    return not scores or max(scores) - min(scores) <= EQUAL_SCORES


def rollout_statistics(trees: Sequence[SearchTree]) -> dict[str, float]:
    """Return sums over trees, which add up over batches and processes.

    ``rollouts`` are all that ended; ``judged``, ``truncated``, ``partial``, ``abstained`` and
    ``unjudged`` are its parts. ``score_sum`` and ``length_sum`` are the scores and the sampled tokens of
    the judged rollouts' paths: divided by ``judged`` they are means. ``steps``, ``tokens`` (those that
    were sampled) and ``function/NAME`` count each step of a tree once, however many rollouts share it.
    """
    names = ("rollouts", "judged", *_REASONS, "score_sum", "length_sum", "steps", "tokens")
    sums = dict.fromkeys(names, 0.0)
    for tree in trees:
        for name in tree.grammar.functions:
            sums.setdefault(f"function/{name}", 0.0)
        for end in tree.ends():
            sums["rollouts"] += tree.ended[end]
            sums[end_kind(tree, end)] += tree.ended[end]
        for step in tree.step[1:]:
            assert step is not None
            sums["steps"] += 1
            sums["tokens"] += sum(step.action_mask)
            sums[f"function/{step.function}"] += 1
    for rollouts in judged_rollouts(trees, log=False):
        for rollout in rollouts:
            sums["score_sum"] += rollout.count * rollout.score
            sums["length_sum"] += rollout.count * rollout.tokens
    return sums
