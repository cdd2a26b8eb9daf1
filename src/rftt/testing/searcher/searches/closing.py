"""Nodes that are closed too early: exhausted, with functions that the strategy would yet try.

A strategy may say at any time that a whole search is over, so the node at which it begins does not
count; and one that lets the policy choose cannot know what is left. So a node counts as closed too
early only if it is below the first, functions are left there that the policy may choose, and the
strategy, were the node open and the search committed to it, would ask for one of them. One that tries
some functions of a node alone has a rule for that when it is asked, and would not.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from attrs import define

from rftt.problems.problem import Problem
from rftt.search.budget import Budget, SearchConfig
from rftt.search.engine.engine import run_search
from rftt.search.searcher import Expansion, ExpansionResult
from rftt.search.tree.tree import SearchTree
from rftt.testing.searcher.bench import Bench
from rftt.testing.searcher.calls.watched import Watched
from rftt.testing.searcher.promises import ExhaustedBroken
from rftt.testing.searcher.searches.endless import EndlessPolicy, FirstStepVerifier
from rftt.testing.searcher.searches.what_if import asked_now, reopened

_ROLLOUTS: Final = 64


@define(eq=False)
class _Closing(Watched):
    """Look at each node that the strategy closes."""

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        was = list(tree.exhausted)
        expansions = Watched.ask(self, tree, rng)
        self._check_closed(tree, was)
        return expansions

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        was = list(tree.exhausted)
        Watched.tell(self, tree, results)
        self._check_closed(tree, was)

    def _check_closed(self, tree: SearchTree, was: Sequence[bool]) -> None:
        for node in range(tree.start + 1, len(was)):
            if tree.exhausted[node] and not was[node] and (asked := self._left(tree, node)):
                found = (
                    f"node {node} is exhausted, and were it not, the strategy would ask for "
                    f"{asked!r} there, which it has not tried; close a node when nothing is left that "
                    "may be tried there"
                )
                self.demand(tree, [ExhaustedBroken(found)])

    def _left(self, tree: SearchTree, node: int) -> str | None:
        """Return a function that was not tried at a node, and that the strategy would ask for now."""
        if tree.is_terminal(node) or tree.depth[node] >= tree.max_depth:
            return None
        tried = {step.function for child in tree.children[node] if (step := tree.step[child])}
        if not set(tree.legal(node)) - tried:
            return None
        tree = reopened(tree, node, self.needs_prior)
        tree.start = node
        for each in asked_now(self.searcher, tree):
            if each.node == node and each.function is not None and each.function not in tried:
                return each.function
        return None


def check_closing(bench: Bench) -> None:
    """Raise the promise that is broken if a node is closed too early."""
    low, high = bench.settings.rewards
    for seed, favourite in enumerate(EndlessPolicy.names):
        watched = _Closing(bench.fresh(), bench.skipped, checks_trees=False)
        verifier = FirstStepVerifier.favouring(favourite, low, high)
        config = SearchConfig(Budget(_ROLLOUTS), seed)
        run_search([Problem("endless", "what comes first?")], watched, EndlessPolicy(), verifier, config)
