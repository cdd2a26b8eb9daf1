"""A strategy under watch: every call is forwarded, checked and noted down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from random import Random
from typing import Any, TypeVar

from attrs import define, field

from rftt.search.searcher import Expansion, ExpansionResult
from rftt.search.tree.tree import SearchTree
from rftt.testing.copies import copied, difference, reloaded
from rftt.testing.searcher.bench import AbandonedError
from rftt.testing.searcher.calls.faults import (
    expansion_faults,
    request_faults,
    size_faults,
    touch_faults,
    tree_faults,
)
from rftt.testing.searcher.calls.forwarding import CostlyError, Forwarding
from rftt.testing.searcher.calls.scenario import asked_text, story_text, told_text, tree_text
from rftt.testing.searcher.promises import (
    AnswerBroken,
    ContractViolation,
    ProgressBroken,
    RepliesBroken,
    RequestBroken,
    ResumeBroken,
    StateBroken,
)

T = TypeVar("T")

_MORE = 5


@define(eq=False)
class Watched(Forwarding):
    """Behave as ``searcher`` does, on one tree for each problem, and raise the promise that it breaks.

    Where a promise that is not demanded is broken in such a way that the engine could not go on,
    :class:`~rftt.testing.searcher.bench.AbandonedError` is raised.

    Attributes:
        waived: names of promises that are not demanded.
        twice: whether each call is made again on equal trees, to find state that is not on the tree.
        checks_trees: whether the whole tree is checked after each call.
    """

    waived: Collection[str] = ()
    twice: bool = False
    checks_trees: bool = True
    story: list[tuple[str, str]] = field(factory=list, init=False)
    """What was asked and told, each with the problem's id."""
    asked: dict[tuple[str, int], tuple[Expansion, ...]] = field(factory=dict, init=False)
    """What was asked, by problem and ``tree.rounds``."""
    told: Counter[str] = field(factory=Counter, init=False)
    """How often the strategy was told something, by problem."""

    def is_done(self, tree: SearchTree) -> bool:
        before = self._copied(tree)
        is_done = self._call("is_done", tree, lambda: self.searcher.is_done(tree))
        self._check_touch(before, tree)
        if is_done and _is_new(tree):
            self.demand(tree, [AnswerBroken("the search is done before anything is sampled")])
        return is_done

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        before, state, is_new = self._copied(tree), rng.getstate(), _is_new(tree)
        asked = self._call("ask", tree, lambda: self.searcher.ask(tree, rng))
        self._refuse(tree, request_faults(tree, asked))
        expansions = tuple(asked)
        try:
            self._refuse(tree, size_faults(tree, expansions))
        except RequestBroken as violation:
            raise CostlyError(violation) from None
        self.asked[tree.problem.id, tree.rounds] = expansions
        self.story.append((tree.problem.id, f"round {tree.rounds}: asked {asked_text(expansions)}"))
        if self.twice:
            self._ask_again(tree, expansions, before, state)
        self._check_touch(before, tree)
        self._refuse(tree, expansion_faults(tree, expansions))
        if not expansions:
            if is_new:
                self.demand(tree, [AnswerBroken("nothing is asked of a new tree")])
            if not self._call("is_done", tree, lambda: self.searcher.is_done(tree)):
                found = "nothing is asked for, and is_done is false; let it say that the search is over"
                self._refuse(tree, [ProgressBroken(found)])
        return expansions

    def _refuse(self, tree: SearchTree, faults: Iterable[ContractViolation]) -> None:
        """Raise the first fault that is demanded; abandon the search if there are others."""
        found = list(faults)
        self.demand(tree, found)
        if found:
            raise AbandonedError(found[0].what)

    def _ask_again(
        self, tree: SearchTree, expansions: tuple[Expansion, ...], before: SearchTree, state: Any
    ) -> None:
        self._compare(tree, expansions, copied(before), state, StateBroken, "an equal tree")
        try:
            loaded = self._reloaded(before)
            self._compare(tree, expansions, loaded, state, ResumeBroken, "the tree saved and loaded")
        except ResumeBroken:
            # It may as well be chance from elsewhere, which came to the same the first time.
            for _ in range(_MORE):
                self._compare(tree, expansions, copied(before), state, StateBroken, "an equal tree")
            raise

    def _compare(
        self, tree: SearchTree, expansions: tuple[Expansion, ...], other: SearchTree, state: Any,
        broken: type[ContractViolation], what: str,
    ) -> None:  # fmt: skip
        if broken.promise in self.waived:
            return
        rng = Random()
        rng.setstate(state)
        again = self._call("ask", tree, lambda: self.searcher.ask(other, rng), broken)
        self._refuse(other, request_faults(other, again))
        if (again := tuple(again)) != expansions:
            found = f"asked of {what}, with equal rng, the strategy asks for {asked_text(again)}"
            self.demand(tree, [broken(found)])
        elif differs := difference(tree, other):
            self.demand(tree, [broken(f"asking leaves another tree for {what}: {differs}")])

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        self.told[tree.problem.id] += 1
        self.story.append((tree.problem.id, f"  told {told_text(results)}"))
        before = self._copied(tree)
        other = copied(tree) if self.twice else tree
        self._call("tell", tree, lambda: self.searcher.tell(tree, results))
        if self.twice and StateBroken.promise not in self.waived:
            self._call("tell", tree, lambda: self.searcher.tell(other, results), StateBroken)
            if differs := difference(tree, other):
                self.demand(tree, [StateBroken(f"told the same twice, equal trees differ: {differs}")])
        self._check_touch(before, tree)
        if self.checks_trees:
            faults = tree_faults(
                tree, self.discount, has_discount=self.has_discount, scores_partial=self.scores_partial
            )
            self.demand(tree, faults)

    def _call(
        self, name: str, tree: SearchTree, call: Callable[[], T],
        broken: type[ContractViolation] = RepliesBroken,
    ) -> T:  # fmt: skip
        try:
            return call()
        except CostlyError as costly:
            costly.violation.scenario = self.scenario(tree)
            raise
        except Exception as error:
            if broken.promise in self.waived:
                raise AbandonedError(f"{name} raised {error!r}") from error
            raise broken(f"{name} raised {error!r}", self.scenario(tree)) from error

    def _copied(self, tree: SearchTree) -> SearchTree:
        return copied(tree) if self.checks_trees or self.twice else tree

    def _check_touch(self, before: SearchTree, tree: SearchTree) -> None:
        if self.checks_trees:
            self.demand(tree, touch_faults(before, tree))

    def _reloaded(self, tree: SearchTree) -> SearchTree:
        try:
            return reloaded(tree)
        except (TypeError, ValueError) as error:
            self.demand(tree, [ResumeBroken(f"the tree cannot be saved: {error}")])
            return copied(tree)

    def demand(
        self, tree: SearchTree, faults: Iterable[ContractViolation], others: Sequence[SearchTree] = ()
    ) -> None:
        """Raise the first fault that is not waived, with what led to it on this tree, and on others
        where they matter."""
        for fault in faults:
            if fault.promise not in self.waived:
                fault.scenario = self.scenario(tree, *others)
                raise fault

    def scenario(self, *trees: SearchTree) -> str:
        """Return what was asked and told of the trees, in order, and the trees."""
        ids = {tree.problem.id for tree in trees}
        lines = [f"{id} {text}" if len(ids) > 1 else text for id, text in self.story if id in ids]
        return "\n".join([story_text(lines), *map(tree_text, trees)])


def _is_new(tree: SearchTree) -> bool:
    return len(tree) == 1 and tree.is_open(0)
