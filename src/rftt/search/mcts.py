"""Monte Carlo tree search with UCT."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Literal

from attrs import field, frozen, validators

from rftt.search.searcher import Expansion, Growth, Searcher
from rftt.search.tree import SearchTree


def uct_score(value: float, visits: int, parent_visits: int, exploration: float) -> float:
    """The upper confidence bound for trees (Kocsis and Szepesvari 2006):
    ``value + exploration * sqrt(ln(parent_visits) / visits)``; infinite for an unvisited child, so
    that none is starved."""
    if visits == 0:
        return math.inf
    return value + exploration * math.sqrt(math.log(max(1, parent_visits)) / visits)


@frozen
class MCTS(Searcher):
    """UCT; each simulation goes down to a node with room for a child and samples on to an answer.

    All steps of a sample become nodes, so later simulations can branch off anywhere along it.

    Attributes:
        exploration: the constant of UCT.
        openers: who chooses a new child's function. ``"ranked"``: the searcher tries the legal
            functions of the policy's prior, likeliest first (arXiv 2502.13389), ``width`` samples each.
            ``"sampled"``: the policy samples it, ``width`` children in all; openers are then
            samples that reinforcement can learn from.
        width: see ``openers``.
        parallel: simulations in one round. Those under way count as visits, so that they spread.
        discount: factor on a score for each step it is backed up.
    """

    exploration: float = field(default=2.0, validator=validators.ge(0))
    openers: Literal["ranked", "sampled"] = field(
        default="ranked", validator=validators.in_(("ranked", "sampled"))
    )
    width: int = field(default=1, validator=validators.ge(1))
    parallel: int = field(default=1, validator=validators.ge(1))
    discount: float = field(default=1.0, validator=[validators.gt(0), validators.le(1)])

    @property
    def needs_prior(self) -> bool:  # type: ignore[override]
        return self.openers == "ranked"

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        # Simulations under way in this round, by node and, for the new child, by edge.
        passing: Counter[int] = Counter()
        growing: Counter[tuple[int, str | None]] = Counter()
        wishes: list[Expansion] = []
        while len(wishes) < self.parallel and not tree.closed[0]:
            path = [0]
            while not (room := self._room(tree, path[-1], growing))[0]:
                child = self._best_child(tree, path[-1], passing)
                if child is None:
                    break
                path.append(child)
            node = path[-1]
            if room[0]:
                passing.update(path)
                growing[node, room[1]] += 1
                wishes.append(Expansion(node, function=room[1]))
            elif not self._close_finished(tree, node):
                # All the room there is, is taken by simulations of this round.
                break
        return wishes

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        for growth in grown:
            for chain, score in zip(growth.chains, growth.scores, strict=True):
                tree.backup(chain[-1], score, discount=self.discount)
        for growth in grown:
            for chain in growth.chains:
                self._close_finished(tree, chain[-1])

    def _room(
        self, tree: SearchTree, node: int, growing: Counter[tuple[int, str | None]]
    ) -> tuple[bool, str | None]:
        """Whether a child may be added to this node, and by which function."""
        if not tree.is_open(node):
            return False, None
        if self.openers == "sampled":
            return len(tree.children[node]) + growing[node, None] < self.width, None
        prior = tree.prior[node]
        if prior is None:
            # A node of this very round: its prior comes with the next one.
            return True, None
        tried = Counter(s.function for c in tree.children[node] if (s := tree.segment[c]))
        for function in sorted(prior, key=lambda name: -prior[name]):
            if tried[function] + growing[node, function] < self.width:
                return True, function
        return False, None

    def _best_child(self, tree: SearchTree, node: int, passing: Counter[int]) -> int | None:
        default = tree.value(node) or 0.0
        visits = tree.visits[node] + passing[node]

        def score(child: int) -> float:
            value = tree.value(child)
            return uct_score(
                default if value is None else value,
                tree.visits[child] + passing[child],
                visits,
                self.exploration,
            )

        return max((c for c in tree.children[node] if not tree.closed[c]), key=score, default=None)

    def _close_finished(self, tree: SearchTree, node: int) -> bool:
        """Close a node below which nothing is left, and then its ancestors likewise; whether any was
        closed."""
        found = False
        while node >= 0 and not self._room(tree, node, Counter())[0]:
            if not all(tree.closed[child] for child in tree.children[node]):
                break
            found = found or not tree.closed[node]
            tree.close(node)
            node = tree.parent[node]
        return found
