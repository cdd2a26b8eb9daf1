"""Entropy-guided forking: new branches at the tokens where the policy was least sure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from random import Random
from typing import Final

from attrs import field, frozen, validators

from rftt.search.searcher import Expansion, ExpansionResult, Searcher
from rftt.search.tree.tree import SearchTree

_FORKS: Final = "forks"


@frozen
class UncertaintyForking(Searcher):
    """Sample ``roots`` solutions, then fork the tree where a sampled token was least likely.

    What comes before the token is kept, and the policy goes on from there to the end of a solution
    (after TreeRL, Hou et al. 2025, and others that fork by entropy; a tree holds the log-probability of
    each sampled token, whose negative is an unbiased estimate of the entropy at that place). A token is
    forked once at the most. Ends when there is none left to fork at; since a policy can be unsure
    without end, the budget must limit rollouts.

    Attributes:
        roots: completions of the first round.
        forks_per_round: forks a round.
        forks_per_sample: tokens of each new completion that may be forked at, the least likely of it.
        sure: tokens more probable than this are not forked at.
    """

    roots: int = field(default=4, validator=validators.ge(1))
    forks_per_round: int = field(default=4, validator=validators.ge(1))
    forks_per_sample: int = field(default=4, validator=validators.ge(1))
    sure: float = field(default=0.99, validator=[validators.gt(0), validators.le(1)])
    needs_rollout_limit = True

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        if _FORKS not in tree.memo:
            tree.memo[_FORKS] = []
            return [Expansion(tree.start, count=self.roots)]
        forks = tree.memo[_FORKS]
        count = min(self.forks_per_round, len(forks))
        chosen = [heapq.heappop(forks) for _ in range(count)]
        if not chosen:
            tree.mark_exhausted(0)
        return [self._fork(tree, node, place) for _, node, place in chosen]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        for result in results:
            for nodes in result.completions:
                places = [place for node in nodes for place in self._unsure(tree, node)]
                for place in heapq.nsmallest(self.forks_per_sample, places):
                    # A list, as JSON would give it back.
                    heapq.heappush(tree.memo[_FORKS], list(place))

    def _unsure(self, tree: SearchTree, node: int) -> list[tuple[float, int, int]]:
        step = tree.step[node]
        assert step is not None
        sure = math.log(self.sure)
        return [
            (log_prob, node, place)
            for place, (log_prob, is_action) in enumerate(
                zip(step.log_probs, step.action_mask, strict=True)
            )
            if is_action and log_prob <= sure
        ]

    def _fork(self, tree: SearchTree, node: int, place: int) -> Expansion:
        step, parent = tree.step[node], tree.parent[node]
        assert step is not None
        if place < step.body_start:
            return Expansion(parent)
        return Expansion(parent, function=step.function, prefix=step.ids[step.body_start : place])
