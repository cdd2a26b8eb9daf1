"""Entropy-guided forking: new branches at the tokens where the policy was least sure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from random import Random
from typing import Any, Final

from attrs import field, frozen, validators

from rftt.interfaces import Step
from rftt.search.scores import known_log_probs
from rftt.search.searcher import Expansion, ExpansionResult, Searcher
from rftt.search.tree.tree import SearchTree

_FORKING: Final = "forking"


@frozen
class UncertaintyForking(Searcher):
    """Sample ``roots`` solutions, then fork each where a sampled token was least likely: EPTree
    (TreeRL, Hou et al. 2025, arXiv 2506.11902).

    What comes before the token is kept, and the policy goes on from there to the end of a solution. A
    round forks each root's solution, with all branches that came of it, at its ``forks_per_round`` least
    likely tokens; the negative log-probability of a sampled token is the entropy of that paper. The
    budget says how many rounds there are. It must limit rollouts, since a policy can be unsure without
    end.

    A place is what comes before a token, and none is forked again before all others of its root were.
    So neither the first token of a branch nor what several solutions begin with is a place of its own.
    Not forked at all is the body of a last step that others led up to, which holds the answer. The
    search ends if there is no place to fork.

    Attributes:
        roots: completions of the first round (M in the paper).
        forks_per_round: places of each root's solutions that are forked in one round (N).
        branches: completions of each fork (T).
        sure: tokens more probable than this are not forked at.
    """

    roots: int = field(default=4, validator=validators.ge(1))
    forks_per_round: int = field(default=2, validator=validators.ge(1))
    branches: int = field(default=2, validator=validators.ge(1))
    sure: float = field(default=0.99, validator=[validators.gt(0), validators.le(1)])
    needs_rollout_limit = True

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        if _FORKING not in tree.memo:
            # Of each root the places to fork, the next one first, as [times forked, log-probability,
            # node, token]; what is in flight, with its root; and the first node of this search.
            tree.memo[_FORKING] = {"places": [], "asked": [], "first": len(tree)}
            return [Expansion(tree.start, count=self.roots)]
        memo = tree.memo[_FORKING]
        popped = [
            [[root, heapq.heappop(places)] for _ in range(min(self.forks_per_round, len(places)))]
            for root, places in enumerate(memo["places"])
        ]
        # Each root's first fork before any root's second: a budget that ends here is spread as well.
        memo["asked"] = [fork for rank in zip_longest(*popped) for fork in rank if fork is not None]
        if not memo["asked"]:
            tree.mark_exhausted(0)
        return [self._fork(tree, node, place) for _, (_, _, node, place) in memo["asked"]]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        memo = tree.memo[_FORKING]
        assert tree.budget.rollouts is not None
        if not memo["asked"]:
            memo["places"] = [[] for result in results for _ in result.completions]
            for result in results:
                for root, nodes in enumerate(result.completions):
                    self._add_places(tree, memo, root, nodes)
        for (root, (times, *place)), result in zip(memo["asked"], results, strict=False):
            was_forked = bool(result.completions)
            heapq.heappush(memo["places"][root], [times + was_forked, *place])
            for nodes in result.completions:
                self._add_places(tree, memo, root, nodes)
        # The budget reaches no more than that.
        most = tree.budget.rollouts
        memo["places"] = [heapq.nsmallest(most, places) for places in memo["places"]]
        memo["asked"] = []

    def _add_places(
        self, tree: SearchTree, memo: dict[str, Any], root: int, nodes: Sequence[int]
    ) -> None:
        """Add the places of a completion that are new on the tree."""
        # Nodes with the same path to them as the parent of the step that is looked at.
        parents = _with_equal_path(tree, tree.parent[nodes[0]], memo["first"])
        for node in nodes:
            step = _step(tree, node)
            siblings = [
                other for parent in parents for other in tree.children[parent]
                if memo["first"] <= other < node
            ]  # fmt: skip
            if unsure := self._unsure(tree, node):
                first_new = _first_new_place(step, (_step(tree, other) for other in siblings))
                for log_prob, place in unsure:
                    if place >= first_new:
                        heapq.heappush(memo["places"][root], [0, log_prob, node, place])
            parents = [other for other in siblings if _is_same(_step(tree, other), step)] + [node]

    def _unsure(self, tree: SearchTree, node: int) -> list[tuple[float, int]]:
        step, most = _step(tree, node), math.log(self.sure)
        holds_answer = tree.grammar.is_terminal(step.function) and tree.depth[node] > 1
        end = step.body_start if holds_answer else len(step.ids)
        return [
            (log_prob, place)
            for place, log_prob in enumerate(known_log_probs(tree, node)[:end])
            if step.action_mask[place] and log_prob <= most
        ]

    def _fork(self, tree: SearchTree, node: int, place: int) -> Expansion:
        step, parent = _step(tree, node), tree.parent[node]
        if place < step.body_start:
            return Expansion(parent, count=self.branches)
        prefix = step.ids[step.body_start : place]
        return Expansion(parent, count=self.branches, function=step.function, prefix=prefix)


def _step(tree: SearchTree, node: int) -> Step:
    step = tree.step[node]
    assert step is not None
    return step


def _with_equal_path(tree: SearchTree, node: int, first: int) -> list[int]:
    """Return a node and all others, not before ``first``, with the same steps from the start to them."""
    found = [tree.start]
    for above in tree.path(node)[tree.depth[tree.start] :]:
        step = _step(tree, above)
        children = [child for parent in found for child in tree.children[parent] if child >= first]
        found = [child for child in children if _is_same(_step(tree, child), step)]
    return found


def _is_same(a: Step, b: Step) -> bool:
    return a.function == b.function and a.ids == b.ids and a.text == b.text


def _first_new_place(step: Step, others: Iterable[Step]) -> int:
    """Return the first place of a step that is not also one of another step after the same path."""
    shared = -1
    for other in others:
        # Without an opener, what comes before the first token is the path and the function.
        if not step.body_start and other.function != step.function:
            continue
        if other.ids == step.ids:
            return len(step.ids)
        pairs = enumerate(zip(step.ids, other.ids, strict=False))
        equal = min(len(step.ids), len(other.ids))
        shared = max(shared, next((place for place, (a, b) in pairs if a != b), equal))
    return shared + 1
