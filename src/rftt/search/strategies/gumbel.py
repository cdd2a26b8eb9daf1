"""Gumbel MCTS: planning that improves on the prior with few simulations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from random import Random
from typing import Final

from attrs import field, frozen, validators

from rftt.search.searcher import Expansion, ExpansionResult, Searcher
from rftt.search.strategies.selection import qtransform_by_parent_and_siblings
from rftt.search.tree.tree import SearchTree

_GUMBEL: Final = "gumbel"


@frozen
class GumbelMCTS(Searcher):
    """Search with Gumbel noise and sequential halving at the root (Danihelka et al. 2022).

    Actions are functions; each has one sampled step at a node. At the root, the
    ``max_num_considered_actions`` functions with the largest ``gumbel + log prior`` share the
    simulations, which are the budget's rollouts, by sequential halving, ranked by
    ``gumbel + log prior + sigma(value)``. Below it, the function with the largest
    ``improved probability - visits / (1 + all visits)`` is taken, where improved probabilities are
    ``softmax(log prior + sigma(value))`` (equations 10 to 14 there). Names are mctx's.

    Attributes:
        max_num_considered_actions: functions at the root that get simulations.
        value_scale, maxvisit_init: ``sigma(q) = (maxvisit_init + most visits of a sibling) *
            value_scale * q``, with ``q`` moved to [0, 1] by its siblings.
        discount: factor on a score for each step it is backed up.
    """

    max_num_considered_actions: int = field(default=8, validator=validators.ge(1))
    value_scale: float = field(default=0.1, validator=validators.ge(0))
    maxvisit_init: float = field(default=50.0, validator=validators.ge(0))
    discount: float = field(default=1.0, validator=[validators.gt(0), validators.le(1)])
    needs_prior = True
    needs_rollout_limit = True

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        if _GUMBEL not in tree.memo:
            prior = tree.prior[tree.start]
            assert prior is not None
            tree.memo[_GUMBEL] = {name: -math.log(rng.expovariate(1.0)) for name in prior}
        node = tree.start
        while True:
            options = self._options(tree, node)
            if not options:
                # A child that is not exhausted was reached by a function that the prior does not have.
                tree.mark_exhausted(node)
                tree.propagate_exhausted(tree.parent[node], partial(_has_room, tree))
                if tree.exhausted[0]:
                    return []
                node = tree.start
                continue
            choose = self._root_action if node == tree.start else self._interior_action
            function = choose(tree, node, options)
            child = options[function]
            if child is None:
                return [Expansion(node, function=function)]
            node = child

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        for result in results:
            for nodes, score in zip(result.completions, result.scores, strict=True):
                tree.backup(nodes[-1], score, discount=self.discount)
                tree.propagate_exhausted(nodes[-1], partial(_has_room, tree))

    def _options(self, tree: SearchTree, node: int) -> dict[str, int | None]:
        """Return each function that can be taken, and its child if it has one."""
        if not tree.is_open(node):
            return {}
        children = {s.function: c for c in tree.children[node] if (s := tree.step[c])}
        options: dict[str, int | None] = {}
        for name in tree.prior[node] or ():
            child = children.get(name)
            if child is None or not tree.exhausted[child]:
                options[name] = child
        return options

    def _root_action(self, tree: SearchTree, node: int, options: Mapping[str, int | None]) -> str:
        gumbel: Mapping[str, float] = tree.memo[_GUMBEL]
        logits = self._improved_logits(tree, node, options)
        visits = {name: tree.visits[child] if child else 0 for name, child in options.items()}
        assert tree.budget.rollouts is not None
        simulations = max(tree.budget.rollouts, tree.visits[0] + 1)
        plan = considered_visits(min(self.max_num_considered_actions, len(gumbel)), simulations)
        wanted = plan[tree.visits[0]]
        # Where finished functions leave no candidate with as many, the least visited stand in.
        level = wanted if wanted in visits.values() else min(visits.values())
        candidates = [name for name in options if visits[name] == level]
        return max(candidates, key=lambda name: gumbel[name] + logits[name])

    def _interior_action(self, tree: SearchTree, node: int, options: Mapping[str, int | None]) -> str:
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
        scaled = qtransform_by_parent_and_siblings(known, completed)
        most = max((tree.visits[child] for child in options.values() if child), default=0)
        return {
            name: prior[name] + (self.maxvisit_init + most) * self.value_scale * value
            for name, value in zip(options, scaled, strict=True)
        }


def mixed_value(
    value: float,
    priors: Sequence[float],
    visits: Sequence[int],
    values: Sequence[float | None],
) -> float:
    """Return the value of a function that was not tried, from those that were.

    It mixes the node's own mean and the prior-weighted mean of the tried functions:
    ``(v + N * sum(p q) / sum(p)) / (1 + N)`` with ``N`` all visits (Danihelka et al. 2022, equation 33).
    """
    tried = [(p, q) for p, q in zip(priors, values, strict=True) if q is not None]
    mass = sum(p for p, _ in tried)
    if not mass:
        return value
    count = sum(visits)
    return (value + count * sum(p * q for p, q in tried) / mass) / (1 + count)


def considered_visits(actions: int, simulations: int) -> list[int]:
    """Return, for each simulation, how many visits the action that it goes to has had.

    This is sequential halving (Karnin et al. 2013; mctx's sequence of considered visits): each phase
    gives its actions the same number of visits and then drops the worse half.
    """
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
    return tree.is_open(node) and (prior is None or len(tree.children[node]) < len(prior))
