"""DeepConf online: solutions that are not confident are stopped, and sampling once a vote is settled."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final

from attrs import field, frozen, validators

from rftt.search.answers.confidence import (
    LowestGroupConfidence,
    confidence_bar,
    sampled_log_probs,
    vote_above,
)
from rftt.search.answers.voting import Equivalence, same_text
from rftt.search.searcher import Expansion, ExpansionResult, Searcher
from rftt.search.tree.tree import SearchTree

_ONLINE: Final = "deep_confidence"


@frozen
class DeepConfidence(Searcher):
    """Sample solutions, stop those that are less confident than most, and vote (DeepConf online;
    Fu et al. 2025, arXiv 2508.15260).

    First ``warmup`` solutions are sampled to their ends. The bar is the lowest group confidence that the
    share ``kept`` of them reaches. Then solutions are sampled step by step, and one is stopped once
    a group of its tokens is below the bar. Solutions that reach the bar vote with their confidence as
    weight. Sampling ends when the leading answer has the share ``consensus`` of all weight, or
    with ``solutions``. :meth:`choose` is the answer of that vote.

    The paper stops a solution at the very token; here it goes on to the end of its step. What a
    token's confidence is differs too: see :mod:`rftt.search.answers.confidence`.

    Attributes:
        warmup: solutions sampled first.
        solutions: most solutions in all, stopped ones too.
        per_round: solutions that grow side by side after the warm-up; the vote is looked at when all of
            them are finished.
        kept: the share of the warm-up that reaches the bar: 0.1 in the paper's DeepConf-low, 0.9 in
            DeepConf-high.
        window: tokens of a group. The default is the paper's, for solutions of many thousand tokens. One
            of fewer tokens is never stopped.
        consensus: the share of the weight that settles the vote.
        equivalent: says which answers are the same, such as a verifier's ``equivalent``.
    """

    warmup: int = field(default=16, validator=validators.ge(1))
    solutions: int = field(default=64, validator=validators.ge(1))
    per_round: int = field(default=8, validator=validators.ge(1))
    kept: float = field(default=0.9, validator=[validators.gt(0), validators.le(1)])
    window: int = field(default=2048, validator=validators.ge(1))
    consensus: float = field(default=0.95, validator=[validators.gt(0.5), validators.le(1)])
    equivalent: Equivalence = same_text

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        memo = _memo(tree)
        if not memo["begun"]:
            memo["begun"] = min(self.warmup, self.solutions)
            return [Expansion(tree.start, count=memo["begun"])]
        if memo["growing"]:
            return [Expansion(node, until="step") for node in memo["growing"]]
        more = min(self.per_round, self.solutions - memo["begun"])
        memo["begun"] += more
        return [Expansion(tree.start, count=more, until="step")]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        memo = _memo(tree)
        ends = [nodes[-1] for result in results for nodes in result.completions]
        if memo["bar"] is None:
            finished = [self._confidence(tree, node) for node in ends if tree.is_terminal(node)]
            memo["bar"] = confidence_bar(finished, self.kept) if finished else 0.0
        else:
            memo["growing"] = [node for node in ends if self._goes_on(tree, node, memo["bar"])]
        if not memo["growing"]:
            _, share = vote_above(tree, self._confidence, memo["bar"], self.equivalent)
            if share >= self.consensus or memo["begun"] >= self.solutions:
                tree.mark_exhausted(0)

    def choose(self, tree: SearchTree, equivalent: Equivalence = same_text) -> str | None:
        """Return the answer of the vote, ``None`` if no solution that reaches the bar has one."""
        bar = _memo(tree)["bar"]
        return None if bar is None else vote_above(tree, self._confidence, bar, equivalent)[0]

    def _confidence(self, tree: SearchTree, node: int) -> float:
        return LowestGroupConfidence(self.window)(tree, node)

    def _goes_on(self, tree: SearchTree, node: int, bar: float) -> bool:
        if not tree.is_open(node):
            return False
        is_group = len(sampled_log_probs(tree, node)) >= self.window
        return not is_group or self._confidence(tree, node) >= bar


def _memo(tree: SearchTree) -> dict[str, Any]:
    """Return the bar, once it is known, the solutions begun, and the ends of those that grow."""
    memo: dict[str, Any] = tree.memo.setdefault(_ONLINE, {"bar": None, "begun": 0, "growing": []})
    return memo
