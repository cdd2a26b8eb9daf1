"""The abstract searcher: a strategy that asks and is told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from random import Random

from attrs import field, frozen, validators

from rftt.interfaces import Until
from rftt.search.tree.tree import SearchTree


@frozen
class Expansion:
    """A request of a searcher: ``count`` completions that continue ``node``.

    Attributes:
        node: where the completions begin.
        count: how many.
        function: forces the function of the first step; ``None`` lets the policy choose.
        until: whether each completion is one step or goes on to the end of the solution.
        prefix: forces the first ids of the first step's body.

    Raises:
        TypeError: if ``node`` or ``count`` is not a whole number.
        ValueError: if ``count`` is less than 1, or ``until`` neither ``"step"`` nor ``"solution"``.
    """

    node: int = field(validator=validators.instance_of(int))
    count: int = field(default=1, validator=[validators.instance_of(int), validators.ge(1)])
    function: str | None = None
    until: Until = field(default="solution", validator=validators.in_(("step", "solution")))
    prefix: tuple[int, ...] = ()


@frozen
class ExpansionResult:
    """What came of an expansion.

    Attributes:
        expansion: what was asked.
        completions: for each completion, the nodes that were added, first step first. There may be
            fewer than were asked for, since the engine keeps budgets.
        scores: for each completion, the verifier's score of where it ended; ``None`` if it was not
            judged (it stops short of an end, or the budget cut it) or the verifier abstained.
    """

    expansion: Expansion
    completions: tuple[tuple[int, ...], ...]
    scores: tuple[float | None, ...]


class Searcher(ABC):
    """A search strategy, written for one tree.

    It holds settings, never state: all state is on the tree, in visits, values, priors and
    ``tree.memo``, so that a search can be saved after any round and resumed. It is limited by the
    budget alone, ``tree.budget``, and ends when :meth:`is_done` says so.
    """

    needs_prior: bool = False
    """Whether :meth:`ask` reads ``tree.prior``: then the engine fills it in for every open node."""

    needs_rollout_limit: bool = False
    """Whether the strategy plans with ``tree.budget.rollouts``: then the engine refuses a budget
    without that limit."""

    scores_partial: bool = False
    """Whether the verifier judges every completion, also one that stops short of a solution's end."""

    @abstractmethod
    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        """Return what to expand next, as a list or a tuple; the completions of one round are sampled in
        one batch. Chance must come from ``rng`` alone. Nothing may be returned only if :meth:`is_done`
        is then true."""

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        """Take note of a round's results. The nodes are on the tree already; what is left is to back up
        scores. This default backs up every completion once, undiscounted."""
        for result in results:
            for nodes, score in zip(result.completions, result.scores, strict=True):
                tree.backup(nodes[-1], score)

    def is_done(self, tree: SearchTree) -> bool:
        """Whether the search is over, budget or not. By default: once the root is exhausted."""
        return tree.exhausted[0]
