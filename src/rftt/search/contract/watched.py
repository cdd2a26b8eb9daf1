"""A strategy under watch: it forwards every call, checks it, and keeps the story."""

from __future__ import annotations

import copy
from array import array
from collections.abc import Callable, Collection, Iterable, Sequence
from random import Random
from typing import Any, TypeVar

import attrs
from attrs import define, field

from rftt.search.contract.faults import snapshot, touch_faults, tree_faults, wish_faults
from rftt.search.contract.promises import (
    AnswerBroken,
    ContractViolation,
    RepliesBroken,
    ResumeBroken,
    StateBroken,
)
from rftt.search.contract.scenario import (
    asked_text,
    difference,
    reloaded,
    story_text,
    told_text,
    tree_text,
)
from rftt.search.searcher import Expansion, Growth, Searcher
from rftt.search.tree import SearchTree

T = TypeVar("T")

_MORE = 5


@define(eq=False)
class Watched(Searcher):
    """Behaves as ``searcher`` does on any one tree a problem, and raises what promise it breaks.

    Attributes:
        searcher: the strategy.
        waived: names of promises that are not demanded.
        twice: whether each call is made again on equal trees, to find what is not on the tree.
        looks_at_trees: whether the whole tree is checked after each call.
    """

    searcher: Searcher
    waived: Collection[str] = ()
    twice: bool = False
    looks_at_trees: bool = True
    story: list[tuple[str, str]] = field(factory=list, init=False)
    """What was asked and told, round by round, each with the problem that it is about."""
    wishes: dict[tuple[str, int], tuple[Expansion, ...]] = field(factory=dict, init=False)
    """What was asked, by problem and round."""

    @property
    def needs_prior(self) -> bool:  # type: ignore[override]
        return self.searcher.needs_prior

    @property
    def judges_steps(self) -> bool:  # type: ignore[override]
        return self.searcher.judges_steps

    @property
    def discount(self) -> float:
        return float(getattr(self.searcher, "discount", 1.0))

    def is_done(self, tree: SearchTree) -> bool:
        return self._call("is_done", tree, lambda: self.searcher.is_done(tree))

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        before = self._snapshot(tree)
        as_it_was, state = copied(tree) if self.twice else tree, rng.getstate()
        wishes = self._call("ask", tree, lambda: tuple(self.searcher.ask(tree, rng)))
        self.wishes[tree.problem.id, tree.rounds] = wishes
        self.story.append((tree.problem.id, f"round {tree.rounds}: asked {asked_text(wishes)}"))
        if self.twice:
            self._ask_again(tree, wishes, as_it_was, state)
        if self.looks_at_trees:
            self.demand(tree, touch_faults(before, tree))
        self.demand(tree, wish_faults(tree, wishes))
        if len(tree) == 1 and not wishes and tree.is_open(0):
            self.demand(tree, [AnswerBroken("nothing is asked of a tree on which there is nothing yet")])
        return wishes

    def _ask_again(
        self, tree: SearchTree, wishes: tuple[Expansion, ...], as_it_was: SearchTree, state: Any
    ) -> None:
        self._compare(tree, wishes, copied(as_it_was), state, StateBroken, "an equal tree")
        try:
            loaded = self._reloaded(as_it_was)
            self._compare(tree, wishes, loaded, state, ResumeBroken, "the tree saved and loaded")
        except ResumeBroken:
            # It may as well be chance from elsewhere, which came to the same the first time.
            for _ in range(_MORE):
                self._compare(tree, wishes, copied(as_it_was), state, StateBroken, "an equal tree")
            raise

    def _compare(
        self, tree: SearchTree, wishes: tuple[Expansion, ...], other: SearchTree, state: Any,
        broken: type[ContractViolation], what: str,
    ) -> None:  # fmt: skip
        if broken.promise in self.waived:
            return
        rng = Random()
        rng.setstate(state)
        again = self._call("ask", tree, lambda: tuple(self.searcher.ask(other, rng)), broken)
        if again != wishes:
            found = f"asked of {what}, with equal rng, the strategy asks for {asked_text(again)}"
            self.demand(tree, [broken(found)])
        elif differs := difference(tree, other):
            self.demand(tree, [broken(f"asking leaves another tree for {what}: {differs}")])

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        self.story.append((tree.problem.id, f"  told {told_text(grown)}"))
        before = self._snapshot(tree)
        same = copied(tree) if self.twice else tree
        self._call("tell", tree, lambda: self.searcher.tell(tree, grown))
        if self.twice and StateBroken.promise not in self.waived:
            self._call("tell", tree, lambda: self.searcher.tell(same, grown), StateBroken)
            if differs := difference(tree, same):
                self.demand(tree, [StateBroken(f"told the same twice, equal trees differ: {differs}")])
        if self.looks_at_trees:
            self.demand(tree, touch_faults(before, tree))
            self.demand(tree, tree_faults(tree, self.discount))

    def _call(
        self, name: str, tree: SearchTree, call: Callable[[], T],
        broken: type[ContractViolation] = RepliesBroken,
    ) -> T:  # fmt: skip
        try:
            return call()
        except Exception as error:
            raise broken(f"{name} raised {error!r}", self.scenario(tree)) from error

    def _snapshot(self, tree: SearchTree) -> dict[str, Any]:
        return snapshot(tree) if self.looks_at_trees else {}

    def _reloaded(self, tree: SearchTree) -> SearchTree:
        try:
            return reloaded(tree)
        except (TypeError, ValueError) as error:
            self.demand(tree, [ResumeBroken(f"the tree cannot be saved: {error}")])
            return tree

    def demand(
        self, tree: SearchTree, faults: Iterable[ContractViolation], beside: Sequence[SearchTree] = ()
    ) -> None:
        """Raise the first fault that is not waived, with what led to it: on this tree, and on those
        beside it where they matter."""
        for fault in faults:
            if fault.promise not in self.waived:
                fault.scenario = self.scenario(tree, *beside)
                raise fault

    def scenario(self, *trees: SearchTree) -> str:
        """What was asked and told of the trees, in order, and the trees."""
        ids = {tree.problem.id for tree in trees}
        lines = [f"{id} {text}" if len(ids) > 1 else text for id, text in self.story if id in ids]
        return "\n".join([story_text(lines), *map(tree_text, trees)])


def copied(tree: SearchTree) -> SearchTree:
    """An equal tree that shares nothing that a strategy may write."""
    columns = {f.name: getattr(tree, f.name) for f in attrs.fields(SearchTree)}
    own = {name: column[:] for name, column in columns.items() if isinstance(column, (list, array))}
    return SearchTree(**(columns | own | {"memo": copy.deepcopy(tree.memo)}))
