"""The abstract searcher: a strategy that asks and is told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from random import Random

from attrs import field, frozen, validators

from rftt.interfaces import Until
from rftt.search.tree import SearchTree


@frozen
class Expansion:
    """A wish: ``count`` samples that continue ``node``.

    ``function`` forces the first step's function; ``None`` lets the policy choose. ``until`` says
    whether each sample is one step or goes on to an answer. ``prefix`` forces the first ids of the
    first step's body.
    """

    node: int
    count: int = field(default=1, validator=validators.ge(1))
    function: str | None = None
    until: Until = "answer"
    prefix: tuple[int, ...] = ()


@frozen
class Growth:
    """What came of an expansion: for each sample the nodes that were added, first step first.

    There may be fewer samples than were asked for: budgets are kept by the engine.
    ``scores`` has one entry a sample: the verifier's score of the solution it reached, or
    ``None`` if it reached no end or the verifier abstained.
    """

    expansion: Expansion
    chains: tuple[tuple[int, ...], ...]
    scores: tuple[float | None, ...]


class Searcher(ABC):
    """A search strategy. It holds settings, never state: all state is on the tree, in visits, values,
    priors and ``tree.memo``, so a search can be saved after any round and resumed."""

    needs_prior: bool = False
    """Whether :meth:`ask` reads ``tree.prior``: then the engine fills it in for every open node."""

    judges_steps: bool = False
    """Whether the verifier judges every sample, also one that stops short of an answer."""

    @abstractmethod
    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        """What to grow next; all of one round's expansions are sampled in one batch. No expansions
        means the search is over. Chance must come from ``rng`` alone."""

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        """Take note of a round's growth. The nodes are on the tree already; what is left is to back
        up scores. This default backs up every sample once, undiscounted."""
        for growth in grown:
            for chain, score in zip(growth.chains, growth.scores, strict=True):
                tree.backup(chain[-1], score)

    def is_done(self, tree: SearchTree) -> bool:
        """Whether the strategy is finished with this tree, budget or not."""
        return bool(tree.closed[0])
