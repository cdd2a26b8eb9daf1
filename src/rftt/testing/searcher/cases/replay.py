"""A strategy that is asked once more what it was asked before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TypeVar

from attrs import define

from rftt.search.searcher import Expansion, ExpansionResult
from rftt.search.tree.tree import SearchTree
from rftt.testing.searcher.calls.forwarding import Forwarding
from rftt.testing.searcher.calls.scenario import asked_text
from rftt.testing.searcher.cases.tape import DiffersError

T = TypeVar("T")


class RaisedError(Exception):
    """A strategy raises when its search is replayed."""


class ReplayedError(Exception):
    """A replay has come as far as it should."""


@define(eq=False)
class Replay(Forwarding):
    """Behave as ``searcher`` does, as long as it asks for what was asked for the first time.

    Attributes:
        first: what was asked for, by problem and ``tree.rounds``.
        rounds: how many rounds are replayed.
    """

    first: Mapping[tuple[str, int], tuple[Expansion, ...]]
    rounds: int

    def is_done(self, tree: SearchTree) -> bool:
        return self._call(lambda: self.searcher.is_done(tree))

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        expansions = self._call(lambda: tuple(self.searcher.ask(tree, rng)))
        first = self.first.get((tree.problem.id, tree.rounds))
        if first is not None and expansions != first:
            raise DiffersError(f"in round {tree.rounds} it asks for {asked_text(expansions)}")
        if self.rounds == 0:
            raise ReplayedError
        self.rounds -= 1
        return expansions

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        self._call(lambda: self.searcher.tell(tree, results))

    def _call(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except Exception as error:
            raise RaisedError from error
