"""Gumbel MCTS: planning that improves on the prior with few simulations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from random import Random
from typing import Final

from attrs import field, frozen, validators

from rftt.search.searcher import Expansion, ExpansionResult, Searcher
from rftt.search.strategies.selection import qtransform_completed_by_mix_value
from rftt.search.tree.tree import SearchTree

_GUMBEL: Final = "gumbel"


@frozen
class _Action:
    """A function at a node: its children there, their visits and the function's improved logit, which
    is ``log prior + sigma(completed value)``."""

    children: tuple[int, ...]
    visits: int
    logit: float


@frozen
class GumbelMCTS(Searcher):
    """Search with Gumbel noise and sequential halving at the root (Danihelka et al. 2022, "Policy
    improvement by planning with Gumbel").

    Actions are functions; each has one sampled step at a node. At the root, the
    ``max_num_considered_actions`` functions with the largest ``gumbel + log prior`` share the
    simulations, which are the budget's rollouts, by sequential halving, ranked by
    ``gumbel + log prior + sigma(value)``. Below it, the function with the largest
    ``improved probability - visits / (1 + all visits)`` is taken, where improved probabilities are
    ``softmax(log prior + sigma(value))`` (equations 10 to 14 there). What a function brings is the
    discounted mean score of its steps, so that it compares with the value of the node; the mean of the
    rollouts through a node stands for the value network's estimate. A function below which all is
    searched gets no more visits, and counts in all else. Names are mctx's.

    For learning, take :func:`improved_policy`; to move on, :func:`best_child` and ``commit_to``.

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
            actions = _actions(self, tree, node) if tree.is_open(node) else {}
            open_actions = [name for name, action in actions.items() if _goes_on(tree, action)]
            if not open_actions:
                # A child that is not exhausted was reached by a function that the prior does not have.
                tree.mark_exhausted(node)
                tree.propagate_exhausted(tree.parent[node], partial(_has_room, tree))
                if tree.exhausted[0]:
                    return []
                node = tree.start
                continue
            choose = self._root_action if node == tree.start else _interior_action
            function = choose(tree, actions, open_actions)
            children = actions[function].children
            if not children:
                return [Expansion(node, function=function)]
            node = next(child for child in children if not tree.exhausted[child])

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        for result in results:
            for nodes, score in zip(result.completions, result.scores, strict=True):
                tree.backup(nodes[-1], score, discount=self.discount)
                tree.propagate_exhausted(nodes[-1], partial(_has_room, tree))

    def _root_action(
        self, tree: SearchTree, actions: Mapping[str, _Action], open_actions: Sequence[str]
    ) -> str:
        gumbel: Mapping[str, float] = tree.memo[_GUMBEL]
        done = sum(action.visits for action in actions.values())
        assert tree.budget.rollouts is not None
        simulations = done + max(1, tree.budget.rollouts - tree.rollouts)
        plan = considered_visits(min(self.max_num_considered_actions, len(gumbel)), simulations)
        visits = {name: actions[name].visits for name in open_actions}
        # Where finished functions leave no candidate with as many, the least visited stand in.
        level = plan[done] if plan[done] in visits.values() else min(visits.values())
        candidates = [name for name in open_actions if visits[name] == level]
        return max(candidates, key=lambda name: gumbel[name] + actions[name].logit)


def improved_policy(tree: SearchTree, node: int, searcher: GumbelMCTS) -> dict[str, float]:
    """Return a probability for each function of a node's prior: what the search makes of the prior.

    It is ``softmax(log prior + sigma(completed value))`` (Danihelka et al. 2022, equation 11; mctx's
    ``action_weights``), the target to train the policy's choice of functions towards. Functions that
    were not tried have their share, and a node without a scored rollout has its prior.

    Args:
        tree: searched by a ``GumbelMCTS``.
        node: any node that could be expanded.
        searcher: with which settings.

    Raises:
        ValueError: if the node has no prior: it ends a solution, or the search never stood there.
    """
    actions = _actions(searcher, tree, node)
    return dict(zip(actions, _softmax([action.logit for action in actions.values()]), strict=True))


def best_child(tree: SearchTree, searcher: GumbelMCTS) -> int | None:
    """Return the child of ``tree.start`` that the search chooses, mctx's ``action``; ``None`` if no
    child was visited.

    Of the functions with the most visits it is the one with the largest ``gumbel + log prior +
    sigma(value)``. One below which all is searched stands with them: it was visited less because there
    was no more to find out.

    Args:
        tree: searched by a ``GumbelMCTS``.
        searcher: with which settings.

    Raises:
        ValueError: if the tree has no Gumbel noise: another strategy searched it, or none.
    """
    gumbel: Mapping[str, float] | None = tree.memo.get(_GUMBEL)
    if gumbel is None:
        raise ValueError(
            f"tree {tree.problem.id!r} was not searched by GumbelMCTS below node {tree.start}: its memo "
            "holds no Gumbel noise"
        )
    visited = {n: a for n, a in _actions(searcher, tree, tree.start).items() if a.visits}
    if not visited:
        return None
    most = max(action.visits for action in visited.values())
    candidates = [n for n, a in visited.items() if a.visits == most or not _goes_on(tree, a)]
    chosen = max(candidates, key=lambda name: gumbel[name] + visited[name].logit)
    return max(visited[chosen].children, key=lambda child: tree.visits[child])


def _actions(searcher: GumbelMCTS, tree: SearchTree, node: int) -> dict[str, _Action]:
    """Return what is known of each function of a node's prior, in its order."""
    prior = tree.prior[node]
    if prior is None:
        raise ValueError(
            f"tree {tree.problem.id!r}: node {node} has no prior; a search fills it in where it goes on"
        )
    children = {
        name: tuple(c for c in tree.children[node] if (s := tree.step[c]) and s.function == name)
        for name in prior
    }
    visits = [sum(tree.visits[child] for child in group) for group in children.values()]
    scaled = qtransform_completed_by_mix_value(
        tree.value(node) or 0.0,
        [math.exp(log_prob) for log_prob in prior.values()],
        visits,
        [_discounted_value(tree, group, searcher.discount) for group in children.values()],
        searcher.value_scale,
        searcher.maxvisit_init,
    )
    return {
        name: _Action(children[name], count, prior[name] + value)
        for name, count, value in zip(prior, visits, scaled, strict=True)
    }


def _discounted_value(tree: SearchTree, children: Sequence[int], discount: float) -> float | None:
    """Return the mean score through some children, as their parent sees it."""
    count = sum(tree.value_count[child] for child in children)
    return discount * sum(tree.value_sum[child] for child in children) / count if count else None


def _interior_action(
    tree: SearchTree, actions: Mapping[str, _Action], open_actions: Sequence[str]
) -> str:
    improved = dict(zip(actions, _softmax([a.logit for a in actions.values()]), strict=True))
    all_visits = sum(action.visits for action in actions.values())
    return max(open_actions, key=lambda name: improved[name] - actions[name].visits / (1 + all_visits))


def _softmax(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    if top == -math.inf:
        return [1 / len(logits)] * len(logits)
    weights = [math.exp(logit - top) for logit in logits]
    total = sum(weights)
    return [weight / total for weight in weights]


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


def _goes_on(tree: SearchTree, action: _Action) -> bool:
    """Whether a function can be taken: it has no step yet, or one below which is something to search."""
    return not action.children or not all(tree.exhausted[child] for child in action.children)


def _has_room(tree: SearchTree, node: int) -> bool:
    prior = tree.prior[node]
    if not tree.is_open(node) or prior is None:
        return tree.is_open(node)
    return not {s.function for child in tree.children[node] if (s := tree.step[child])} >= set(prior)
