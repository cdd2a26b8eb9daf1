"""Entropy-guided forking: new branches at the tokens where the policy was least sure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from random import Random
from typing import Final

from attrs import field, frozen, validators

from rftt.search.searcher import Expansion, Growth, Searcher
from rftt.search.tree import SearchTree

_FORKS: Final = "forks"


@frozen
class UncertaintyForking(Searcher):
    """Starts with ``roots`` whole samples, then forks the tree where a sampled token was least likely:
    all before it is kept, and the policy goes on from there to an answer (after TreeRL, Hou et al.
    2025, and others that fork by entropy; a tree holds the probability of each sampled token, and
    its negative logarithm is an unbiased estimate of the entropy at that place).

    A token is forked once at the most. Ends when there is none left to fork at, or after ``most``
    samples: a policy can be unsure without end.

    Attributes:
        roots: samples of the first round.
        at_once: forks a round.
        forks_each: tokens of each new sample that may be forked at, the least likely of it.
        most: samples in all.
        sure: tokens more probable than this are not forked at.
    """

    roots: int = field(default=4, validator=validators.ge(1))
    at_once: int = field(default=4, validator=validators.ge(1))
    forks_each: int = field(default=4, validator=validators.ge(1))
    most: int = field(default=64, validator=validators.ge(1))
    sure: float = field(default=0.99, validator=[validators.gt(0), validators.le(1)])

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        left = self.most - tree.visits[0]
        if _FORKS not in tree.memo and left > 0:
            tree.memo[_FORKS] = []
            return [Expansion(tree.start, count=min(self.roots, left))]
        forks = tree.memo.get(_FORKS, [])
        count = max(0, min(self.at_once, len(forks), left))
        chosen = [heapq.heappop(forks) for _ in range(count)]
        if not chosen:
            tree.close(0)
        return [self._fork(tree, node, place) for _, node, place in chosen]

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
        for growth in grown:
            for chain in growth.chains:
                places = [place for node in chain for place in self._unsure(tree, node)]
                for place in heapq.nsmallest(self.forks_each, places):
                    # A list, as JSON would give it back.
                    heapq.heappush(tree.memo[_FORKS], list(place))

    def _unsure(self, tree: SearchTree, node: int) -> list[tuple[float, int, int]]:
        segment = tree.segment[node]
        assert segment is not None
        sure = math.log(self.sure)
        return [
            (log_prob, node, place)
            for place, (log_prob, chosen) in enumerate(
                zip(segment.log_probs, segment.chosen, strict=True)
            )
            if chosen and log_prob <= sure
        ]

    def _fork(self, tree: SearchTree, node: int, place: int) -> Expansion:
        segment, parent = tree.segment[node], tree.parent[node]
        assert segment is not None
        if place < segment.body_start:
            return Expansion(parent)
        prefix = segment.ids[segment.body_start : place]
        return Expansion(parent, function=segment.function, prefix=prefix)
