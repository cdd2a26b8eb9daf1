"""What a strategy would ask for, had the search of the endless problem gone otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from rftt.interfaces import Step
from rftt.search.budget import Budget
from rftt.search.searcher import Expansion, Searcher
from rftt.search.tree.tree import SearchTree
from rftt.testing.copies import copied
from rftt.testing.searcher.searches.endless import EndlessPolicy

_HUGE: Final = 1e12


def rewards_decide(
    searcher: Searcher, discount: float, tree: SearchTree, node: int, function: str | None
) -> bool:
    """Whether the rewards of an option decide if a strategy goes there now.

    Args:
        searcher: the strategy.
        discount: its factor on scores.
        tree: what it has searched; it is left as it is.
        node: the option, or where it would be.
        function: the option's, where it has no node yet.
    """
    high, low = (_goes_there(searcher, discount, tree, node, function, s) for s in (_HUGE, -_HUGE))
    return high and not low


def _goes_there(
    searcher: Searcher, discount: float, tree: SearchTree, node: int, function: str | None, score: float
) -> bool:
    """Whether the strategy would now go to an option, had it been tried once with this score."""
    tree = reopened(tree, node, searcher.needs_prior)
    if function is not None:
        is_end = tree.grammar.is_terminal(function)
        node = tree.attach(node, Step(function, "", (1,), (0.0,), (True,), terminal=is_end))
        tree.prior[node] = EndlessPolicy().prior([tree.state(node)])[0]
    tree.backup(node, score, discount=discount)
    asked = asked_now(searcher, tree)
    return any(node in (each.node, *tree.path(each.node)) for each in asked)


def reopened(tree: SearchTree, node: int, needs_prior: bool) -> SearchTree:
    """Return a copy in which a node is not exhausted, nor any above it, with a budget that buys one
    rollout more."""
    tree = copied(tree)
    tree.budget = Budget(tree.rollouts + 1)
    for above in (0, *tree.path(node)):
        tree.exhausted[above] = False
        if needs_prior and tree.prior[above] is None:
            tree.prior[above] = EndlessPolicy().prior([tree.state(above)])[0]
    return tree


def asked_now(searcher: Searcher, tree: SearchTree) -> Sequence[Expansion]:
    """Return what the strategy asks for, nothing if it raises."""
    try:
        return searcher.ask(tree, Random(0))
    except Exception:
        # The tree is made up; what a strategy keeps in its memo may not agree with it.
        return ()
