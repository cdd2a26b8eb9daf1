"""Starvation: an option that is never tried because others pay, or because it is unlikely.

What can be demanded of any strategy? A beam drops what is not among its best, best-of-N never looks
back, and depth first may be busy elsewhere for longer than anyone waits; none of these is wrong. So an
option counts as starved only if all of this holds:

* The problem is endless for all practical purposes: any solution can go on to the depth limit, with
  three functions to choose from after every step. One of the three first steps pays the highest reward
  whatever follows, the others pay the lowest. Or all pay the same, and one has a prior of a thousandth.
* The strategy goes on for half as many rollouts again as ``patience``, for the unlikely function for
  twice as many as it takes to be expected once. One that ends by itself leaves nobody waiting.
* ``patience`` rollouts went through a node since the option was there, and none to the option.
* Rewards decide: had the option been tried once with an enormous reward, the strategy would go there
  now; with an enormous loss, it would not. An order that is fixed beforehand does not choose by value.

An *option* of a node is an open child without a visit; and, at a node where the strategy has forced a
function, so that it and not the policy chooses, each legal function without a child.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from attrs import define, field

from rftt.interfaces import Verifier
from rftt.problems.problem import Problem
from rftt.search.budget import Budget, SearchConfig
from rftt.search.engine.engine import run_search
from rftt.search.searcher import ExpansionResult
from rftt.search.tree.tree import SearchTree
from rftt.testing.searcher.bench import Bench
from rftt.testing.searcher.calls.watched import Watched
from rftt.testing.searcher.promises import StarvationBroken
from rftt.testing.searcher.searches.endless import EndlessPolicy, FirstStepVerifier
from rftt.testing.searcher.searches.what_if import rewards_decide

_RARE: Final = 1e-3
"""The prior of the unlikely function."""


@define(eq=False)
class _Counting(Watched):
    """Count the rollouts through each node.

    Attributes:
        through: rollouts through each node.
        before: for each node, the rollouts that had gone through its parent when it came.
        forced: nodes at which the strategy has forced a function.
    """

    through: Counter[int] = field(factory=Counter, init=False)
    before: dict[int, int] = field(factory=dict, init=False)
    forced: set[int] = field(factory=set, init=False)

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        Watched.tell(self, tree, results)
        for result in results:
            node = result.expansion.node
            if result.expansion.function is not None:
                self.forced.add(node)
            for nodes in result.completions:
                for above in (0, *tree.path(node)):
                    self.through[above] += 1
                for new in nodes:
                    self.before[new] = self.through[tree.parent[new]]

    def passed_over(self, tree: SearchTree, patience: int) -> Iterator[tuple[int, str | None, str]]:
        """Yield options that were passed over ``patience`` times, each as a child, or a node and a
        function; and what was found in words."""
        for node in range(len(tree)):
            if self.through[node] < patience or not tree.is_open(node):
                continue
            through = f"{self.through[node]} rollouts went through node {node}"
            for child in tree.children[node]:
                passed = self.through[node] - self.before[child]
                if tree.is_open(child) and not tree.visits[child] and passed >= patience:
                    yield child, None, f"{through}, none to its child {child}"
            tried = {step.function for child in tree.children[node] if (step := tree.step[child])}
            for function in tree.legal(node):
                if node in self.forced and function not in tried:
                    yield node, function, f"{through}, none with {function!r}, which is legal there"


def check_starvation(bench: Bench) -> None:
    """Raise the promise that is broken if an option is starved."""
    low, high = bench.settings.rewards
    for favourite in EndlessPolicy.names:
        verifier = FirstStepVerifier.favouring(favourite, low, high)
        rollouts = bench.settings.patience + bench.settings.patience // 2
        why = f"{favourite!r} paid {high:g}"
        _check(bench, EndlessPolicy(), verifier, rollouts, bench.settings.patience, why)
    even = min(max(0.0, low), high)
    # Where scores shrink on their way up, only the score 0 is the same for all.
    if bench.searcher.needs_prior and (even == 0 or bench.fresh().discount == 1):
        *others, rare = EndlessPolicy.names
        policy = EndlessPolicy({rare: _RARE * len(others) / (1 - _RARE)})
        verifier = FirstStepVerifier.favouring(rare, even, even)
        why = f"all pay the same, and {rare!r} has a prior of {_RARE:g}"
        rollouts = round(2 / _RARE)
        _check(bench, policy, verifier, rollouts, rollouts, why)


def _check(
    bench: Bench, policy: EndlessPolicy, verifier: Verifier, rollouts: int, patience: int, why: str
) -> None:
    watched = _Counting(bench.fresh(), bench.skipped, checks_trees=False)
    problem = Problem("endless", "what comes first?")
    (tree,) = run_search([problem], watched, policy, verifier, SearchConfig(Budget(rollouts)))
    if tree.rollouts < rollouts:
        return
    for node, function, found in watched.passed_over(tree, patience):
        if rewards_decide(watched.searcher, watched.discount, tree, node, function):
            watched.demand(tree, [StarvationBroken(f"{found}; {why}")])
