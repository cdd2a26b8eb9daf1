"""Gumbel MCTS: planning that improves on the prior with few simulations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from random import Random
from typing import Final

from attrs import field, frozen, validators

from rftt.search.searcher import Expansion, Growth, Searcher
from rftt.search.selection import between_siblings
from rftt.search.tree import SearchTree

_GUMBEL: Final = "gumbel"


@frozen
class GumbelMCTS(Searcher):
    """Monte Carlo tree search with Gumbel noise and sequential halving at the root (Danihelka et al.
    2022). Actions are functions; each has one sampled step at a node.

    At the root, the ``considered`` functions with the largest ``gumbel + log prior`` share the
    simulations by sequential halving, ranked by ``gumbel + log prior + sigma(value)``. Below it, the
    function with the largest ``improved probability - visits / (1 + all visits)`` is taken, where
    improved probabilities are ``softmax(log prior + sigma(value))`` (equations 10 to 14 there).

    Attributes:
        simulations: of one tree; the schedule of halving needs to know.
        considered: functions at the root that get simulations.
        scale, offset: ``sigma(q) = (offset + most visits of a sibling) * scale * q``, with ``q`` moved
            to [0, 1] by its siblings.
        discount: factor on a score for each step it is backed up.
    """

    simulations: int = field(default=16, validator=validators.ge(1))
    considered: int = field(default=8, validator=validators.ge(1))
    scale: float = field(default=0.1, validator=validators.ge(0))
    offset: float = field(default=50.0, validator=validators.ge(0))
    discount: float = field(default=1.0, validator=[validators.gt(0), validators.le(1)])
    needs_prior = True

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        if tree.visits[0] >= self.simulations or tree.closed[0]:
            tree.close(0)
            return []
        if _GUMBEL not in tree.memo:
            prior = tree.prior[tree.start]
            assert prior is not None
            tree.memo[_GUMBEL] = {name: -math.log(rng.expovariate(1.0)) for name in prior}
        node = tree.start
        while True:
            options = self._options(tree, node)
            if not options:
                # All below is finished; start again from the top, if that is not.
                if not tree.close_finished(node, partial(_has_room, tree)) or tree.closed[0]:
                    return []
                node = tree.start
                continue
            choose = self._at_the_root if node == tree.start else self._below
            function = choose(tree, node, options)
            child = options[function]
            if child is None:
                return [Expansion(node, function=function)]
            node = child

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        for growth in grown:
            for chain, score in zip(growth.chains, growth.scores, strict=True):
                tree.backup(chain[-1], score, discount=self.discount)
                tree.close_finished(chain[-1], partial(_has_room, tree))
        if tree.visits[0] >= self.simulations:
            tree.close(0)

    def _options(self, tree: SearchTree, node: int) -> dict[str, int | None]:
        """Each function that can be taken, and its child if it has one."""
        if not tree.is_open(node):
            return {}
        children = {s.function: c for c in tree.children(node) if (s := tree.segment[c])}
        options: dict[str, int | None] = {}
        for name in tree.prior[node] or ():
            child = children.get(name)
            if child is None or not tree.closed[child]:
                options[name] = child
        return options

    def _at_the_root(self, tree: SearchTree, node: int, options: Mapping[str, int | None]) -> str:
        gumbel: Mapping[str, float] = tree.memo[_GUMBEL]
        logits = self._improved_logits(tree, node, options)
        visits = {name: tree.visits[child] if child else 0 for name, child in options.items()}
        plan = halving_plan(min(self.considered, len(gumbel)), self.simulations)
        wanted = plan[tree.visits[0]]
        # Where finished functions leave no candidate with as many, the least visited stand in.
        level = wanted if wanted in visits.values() else min(visits.values())
        candidates = [name for name in options if visits[name] == level]
        return max(candidates, key=lambda name: gumbel[name] + logits[name])

    def _below(self, tree: SearchTree, node: int, options: Mapping[str, int | None]) -> str:
        logits = self._improved_logits(tree, node, options)
        top = max(logits.values())
        weights = {name: math.exp(logit - top) for name, logit in logits.items()}
        total = sum(weights.values())
        visits = {name: tree.visits[child] if child else 0 for name, child in options.items()}
        all_visits = sum(visits.values())
        return max(options, key=lambda name: weights[name] / total - visits[name] / (1 + all_visits))

    def _improved_logits(
        self, tree: SearchTree, node: int, options: Mapping[str, int | None]
    ) -> dict[str, float]:
        prior = tree.prior[node]
        assert prior is not None
        values = [None if child is None else tree.value(child) for child in options.values()]
        completed = mixed_value(
            tree.value(node) or 0.0,
            [math.exp(prior[name]) for name in options],
            [tree.visits[child] if child else 0 for child in options.values()],
            values,
        )
        known = [completed if value is None else value for value in values]
        low, high = min([completed, *known]), max([completed, *known])
        scaled = [between_siblings(value, low, high) for value in known]
        most = max((tree.visits[child] for child in options.values() if child), default=0)
        return {
            name: prior[name] + (self.offset + most) * self.scale * value
            for name, value in zip(options, scaled, strict=True)
        }


def mixed_value(
    value: float,
    priors: Sequence[float],
    visits: Sequence[int],
    values: Sequence[float | None],
) -> float:
    """What stands in for the value of a function that was not tried: the node's own mean and the
    prior-weighted mean of the tried ones, ``(v + N * sum(p q) / sum(p)) / (1 + N)`` with ``N`` all
    visits (Danihelka et al. 2022, equation 33)."""
    tried = [(p, q) for p, q in zip(priors, values, strict=True) if q is not None]
    mass = sum(p for p, _ in tried)
    if not mass:
        return value
    count = sum(visits)
    return (value + count * sum(p * q for p, q in tried) / mass) / (1 + count)


def halving_plan(actions: int, simulations: int) -> list[int]:
    """For each simulation, how many visits the action that it goes to has had: sequential halving
    (Karnin et al. 2013). Each phase gives its actions the same number of visits and then drops the
    worse half."""
    plan: list[int] = []
    if actions <= 1:
        return list(range(simulations))
    phases = math.ceil(math.log2(actions))
    visits, left = 0, actions
    while len(plan) < simulations:
        extra = max(1, simulations // (phases * left))
        for _ in range(extra):
            plan += [visits] * left
            visits += 1
        left = max(2, left // 2)
    return plan[:simulations]


def _has_room(tree: SearchTree, node: int) -> bool:
    prior = tree.prior[node]
    return tree.is_open(node) and (prior is None or len(tree.children(node)) < len(prior))
