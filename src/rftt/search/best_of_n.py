"""Best-of-N: independent samples from the question to an answer."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from attrs import field, frozen, validators

from rftt.search.searcher import Expansion, Growth, Searcher
from rftt.search.tree import SearchTree


@frozen
class BestOfN(Searcher):
    """``n`` independent samples in a single round. With a majority vote over the answers this is
    self-consistency (Wang et al. 2022)."""

    n: int = field(default=16, validator=validators.ge(1))

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        return [Expansion(0, count=self.n)]

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        super().tell(tree, grown)
        tree.close(0)
