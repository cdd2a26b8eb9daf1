"""A strategy behind another: what it needs is what the other needs."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

from attrs import define

from rftt.search.searcher import Expansion, ExpansionResult, Searcher
from rftt.search.tree.tree import SearchTree
from rftt.testing.searcher.calls.time_limit import OutOfTimeError, TimeLimit
from rftt.testing.searcher.promises import ContractViolation, TimeBroken

T = TypeVar("T")


class CostlyError(BaseException):
    """A promise is broken in a way that takes long: a call that does not return, a round without
    measure. It ends all checks at once, because to look for a smaller case would take that time again
    for each that is tried."""

    def __init__(self, violation: ContractViolation) -> None:
        super().__init__(violation)
        self.violation = violation


@define(eq=False)
class Forwarding(Searcher):
    """Need what ``searcher`` needs."""

    searcher: Searcher

    @property
    def needs_prior(self) -> bool:  # type: ignore[override]
        return self.searcher.needs_prior

    @property
    def needs_rollout_limit(self) -> bool:  # type: ignore[override]
        return self.searcher.needs_rollout_limit

    @property
    def scores_partial(self) -> bool:  # type: ignore[override]
        return self.searcher.scores_partial

    @property
    def discount(self) -> float:
        """The factor on scores, 1 where the strategy has no such attribute."""
        return float(getattr(self.searcher, "discount", 1.0))

    @property
    def has_discount(self) -> bool:
        """Whether the strategy has such an attribute."""
        inner = self.searcher
        return inner.has_discount if isinstance(inner, Forwarding) else hasattr(inner, "discount")


@define(eq=False)
class Limited(Forwarding):
    """Behave as ``searcher`` does, within a time limit.

    Raises:
        CostlyError: if a call takes longer.
    """

    limit: TimeLimit

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        return self._call("ask", lambda: self.searcher.ask(tree, rng))

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        self._call("tell", lambda: self.searcher.tell(tree, results))

    def is_done(self, tree: SearchTree) -> bool:
        return self._call("is_done", lambda: self.searcher.is_done(tree))

    def _call(self, name: str, call: Callable[[], T]) -> T:
        try:
            return self.limit.call(call)
        except OutOfTimeError as error:
            frames = traceback.extract_tb(error.__traceback__)
            where = f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}"
            found = f"{name} had not returned after {self.limit.seconds:g} s; it was at {where}"
            raise CostlyError(TimeBroken(found)) from None


def pristine(searcher: Searcher) -> Searcher:
    """Return a copy, or the searcher itself if it cannot be copied."""
    try:
        return copy.deepcopy(searcher)
    except Exception:
        return searcher
