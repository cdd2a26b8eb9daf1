"""Starvation: an option that is never tried because others pay.

What can be demanded of any strategy? A beam drops what is not among its best, best-of-N never looks
back, and depth first may be busy elsewhere for longer than anyone waits; none of these is wrong. So an
option counts as starved only if all of this holds:

* The problem is endless for all practical purposes: any solution can go on to the depth limit, with
  three functions to choose from after every step. One of the three first steps pays the highest reward
  whatever follows, the others pay the lowest.
* The strategy goes on for half as many rollouts again as ``patience``. One that ends by itself leaves
  nobody waiting.
* ``patience`` rollouts went through a node since the option was there, and none to the option.
* Rewards decide: had the option been tried once with an enormous reward, the strategy would go there
  now; with an enormous loss, it would not. An order that is fixed beforehand does not choose by value.

An *option* of a node is an open child without a visit; and, at a node where the strategy has forced a
function, so that it and not the policy chooses, each legal function without a child.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from random import Random

from attrs import define, field, frozen

from rftt.interfaces import GenerationRequest, Policy, State, Step, Verdict, Verifier
from rftt.problems.problem import Problem
from rftt.search.budget import Budget, SearchConfig
from rftt.search.engine.engine import run_search
from rftt.search.searcher import ExpansionResult, Searcher
from rftt.search.tree.tree import SearchTree
from rftt.testing.copies import copied
from rftt.testing.searcher.promises import StarvationBroken
from rftt.testing.searcher.watched import Watched
from rftt.tokens.grammar import Function, Grammar

_FUNCTIONS = ("a", "b", "c")
_HUGE = 1e12


class _EndlessPolicy(Policy):
    """Sample one of three functions after each step, or the end, all equally likely."""

    grammar = Grammar(
        [Function(name, f"do {name}") for name in (*_FUNCTIONS, "end")],
        start=_FUNCTIONS,
        followers=dict.fromkeys(_FUNCTIONS, (*_FUNCTIONS, "end")),
    )

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        legal = [self.grammar.legal(state.last) for state in states]
        return [{name: -math.log(len(names)) for name in names} for names in legal]

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        return [self._complete(request) for request in requests]

    def _complete(self, request: GenerationRequest) -> list[Step]:
        rng, last, forced = Random(request.seed), request.state.last, request.function
        steps: list[Step] = []
        for _ in range(request.max_steps if request.until == "solution" else 1):
            last, forced = forced or rng.choice(self.grammar.legal(last)), None
            text = f"{last}{rng.randrange(10)}"
            steps.append(Step(last, text, (1,), (0.0,), (True,), terminal=last == "end"))
            if last == "end":
                break
        return steps


@frozen
class _FirstStepVerifier(Verifier):
    """Score solutions by the function of their first step."""

    scores: Mapping[str, float]

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [Verdict(self.scores[state.steps[0].function], "?") for state in states]


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


def check_starvation(
    searcher: Searcher, waived: Collection[str], rewards: tuple[float, float], patience: int
) -> None:
    """Raise the promise that is broken if an option is starved."""
    low, high = rewards
    rollouts = patience + patience // 2
    for favourite in _FUNCTIONS:
        watched = _Counting(searcher, waived, checks_trees=False)
        verifier = _FirstStepVerifier({name: high if name == favourite else low for name in _FUNCTIONS})
        config = SearchConfig(Budget(rollouts))
        problem = Problem("endless", "what comes first?")
        (tree,) = run_search([problem], watched, _EndlessPolicy(), verifier, config)
        if tree.rollouts < rollouts:
            continue
        for node, function, found in watched.passed_over(tree, patience):
            if _goes_there(watched, tree, node, function, _HUGE) and not _goes_there(
                watched, tree, node, function, -_HUGE
            ):
                watched.demand(tree, [StarvationBroken(f"{found}; {favourite!r} paid {high:g}")])


def _goes_there(
    watched: Watched, tree: SearchTree, node: int, function: str | None, score: float
) -> bool:
    """Whether the strategy would now go to an option, had it been tried once with this score."""
    tree = copied(tree)
    # What would be granted next; the budget itself is spent.
    tree.budget = Budget(tree.rollouts + 1)
    if function is not None:
        node = tree.attach(node, Step(function, "", (1,), (0.0,), (True,), terminal=False))
        tree.prior[node] = _EndlessPolicy().prior([tree.state(node)])[0]
    tree.backup(node, score, discount=watched.discount)
    try:
        expansions = watched.searcher.ask(tree, Random(0))
    except Exception:
        # The tree is made up; what a strategy keeps in its memo may not agree with it.
        return False
    return any(node in (each.node, *tree.path(each.node)) for each in expansions)
