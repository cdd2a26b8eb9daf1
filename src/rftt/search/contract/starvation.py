"""Starvation: an option that is never tried because others pay.

What can be demanded of any strategy? A beam drops what is not among its best, best-of-N never looks
back, and depth first may be busy elsewhere for longer than anyone waits; none of these is wrong. So an
option counts as starved only if all of this holds:

* The world is without end for all practical purposes: any solution can go on to the depth limit, with
  three ways on from every step. One of the three first steps pays the highest reward whatever follows,
  the others pay the lowest.
* The strategy goes on for half as many samples again as ``patience``. One that ends by itself leaves
  nobody waiting.
* ``patience`` samples went through a node since the option was there, and none to the option.
* Rewards decide: had the option been tried once and paid beyond measure, the strategy would go there
  now; had it cost as much, it would not. An order that is fixed beforehand does not choose by value.

An *option* of a node is an open child without a visit; and, at a node where the strategy has forced a
function, so that it and not the policy chooses, each legal function without a child.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from random import Random

from attrs import define, field, frozen

from rftt.interfaces import Extension, Policy, Segment, Solution, State, Verdict, Verifier
from rftt.problems.problem import Problem
from rftt.search.budget import Budget
from rftt.search.contract.promises import StarvationBroken
from rftt.search.contract.watched import Watched, copied
from rftt.search.engine import run_search
from rftt.search.searcher import Growth, Searcher
from rftt.search.tree import SearchTree
from rftt.tokens.grammar import Function, Grammar

_WAYS = ("a", "b", "c")
_MAX_DEPTH = 18
_HUGE = 1e12


class _Endless(Policy):
    """Each step is followed by one of three, or by the end, all equally likely."""

    grammar = Grammar(
        [Function(name, f"do {name}") for name in (*_WAYS, "end")],
        start=_WAYS,
        followers=dict.fromkeys(_WAYS, (*_WAYS, "end")),
    )

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        legal = [self.grammar.legal(state.last) for state in states]
        return [{name: -math.log(len(names)) for name in names} for names in legal]

    def extend(self, requests: Sequence[Extension]) -> list[list[Segment]]:
        return [self._chain(request) for request in requests]

    def _chain(self, request: Extension) -> list[Segment]:
        rng, last, forced = Random(request.seed), request.state.last, request.function
        chain: list[Segment] = []
        for _ in range(request.max_steps if request.until == "answer" else 1):
            last, forced = forced or rng.choice(self.grammar.legal(last)), None
            text = f"{last}{rng.randrange(10)}"
            chain.append(Segment(last, text, (1,), (0.0,), (True,), is_final=last == "end"))
            if last == "end":
                break
        return chain


@frozen
class _Pays(Verifier):
    """The scores of solutions by their first step."""

    scores: Mapping[str, float]

    def judge(self, problem: Problem, solutions: Sequence[Solution]) -> list[Verdict]:
        return [Verdict(self.scores[solution.steps[0].function], "?") for solution in solutions]


@define(eq=False)
class _Counting(Watched):
    """Counts the samples that went through each node; ``before`` has, for each node, how many had gone
    through its parent when it came."""

    through: Counter[int] = field(factory=Counter, init=False)
    before: dict[int, int] = field(factory=dict, init=False)
    forced: set[int] = field(factory=set, init=False)

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        Watched.tell(self, tree, grown)
        for growth in grown:
            node = growth.expansion.node
            if growth.expansion.function is not None:
                self.forced.add(node)
            for chain in growth.chains:
                for above in (0, *tree.path(node)):
                    self.through[above] += 1
                for new in chain:
                    self.before[new] = self.through[tree.parent[new]]

    def passed_over(self, tree: SearchTree, patience: int) -> Iterator[tuple[int, str | None, str]]:
        """Options that were passed over ``patience`` times: a child, or a node and a function; and this
        in words."""
        for node in range(len(tree)):
            if self.through[node] < patience or not tree.is_open(node):
                continue
            through = f"{self.through[node]} samples went through node {node}"
            for child in tree.children(node):
                passed = self.through[node] - self.before[child]
                if tree.is_open(child) and not tree.visits[child] and passed >= patience:
                    yield child, None, f"{through}, none to its child {child}"
            tried = {segment.function for c in tree.children(node) if (segment := tree.segment[c])}
            for function in tree.legal(node):
                if node in self.forced and function not in tried:
                    yield node, function, f"{through}, none with {function!r}, which is legal there"


def hold_no_starvation(
    searcher: Searcher, waived: Collection[str], rewards: tuple[float, float], patience: int
) -> None:
    """Raise the promise that is broken if an option is starved."""
    low, high = rewards
    samples = patience + patience // 2
    for favourite in _WAYS:
        watched = _Counting(searcher, waived, looks_at_trees=False)
        pays = _Pays({way: high if way == favourite else low for way in _WAYS})
        (tree,) = run_search(
            [Problem("endless", "which way?")], watched, _Endless(), pays,
            budget=Budget(rollouts=samples), max_depth=_MAX_DEPTH,
        )  # fmt: skip
        if tree.samples < samples:
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
    if function is not None:
        node = tree.attach(node, Segment(function, "", (1,), (0.0,), (True,), is_final=False))
        tree.prior[node] = _Endless().prior([tree.state(node)])[0]
    tree.backup(node, score, discount=watched.discount)
    try:
        wishes = watched.searcher.ask(tree, Random(0))
    except Exception:
        # The tree is made up; what a strategy keeps in its memo may not agree with it.
        return False
    return any(node in (wish.node, *tree.path(wish.node)) for wish in wishes)
