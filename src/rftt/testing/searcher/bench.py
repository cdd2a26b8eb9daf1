"""What is checked, and with what settings."""

from __future__ import annotations

from attrs import define

from rftt.search.searcher import Searcher
from rftt.testing.searcher.calls.forwarding import Limited, pristine
from rftt.testing.searcher.calls.time_limit import TimeLimit


class AbandonedError(Exception):
    """A case cannot go on because of a promise that is not demanded, such as an error in a strategy that
    may raise."""


@define(eq=False)
class Bench:
    """The strategy, and what is demanded of it.

    Attributes:
        searcher: the strategy, which is never called itself.
        skipped: names of promises that are not demanded: waived, or known to be broken.
        limit: on the time of one call.
        rewards: the lowest and the highest score.
        max_examples, max_shrinks, seed: of each part that draws cases.
        patience: rollouts after which an option that was passed over counts as starved.
        max_rounds: rounds after which a search counts as endless.
    """

    searcher: Searcher
    skipped: set[str]
    limit: TimeLimit
    rewards: tuple[float, float] = (-1.0, 1.0)
    max_examples: int = 50
    max_shrinks: int = 150
    seed: int = 0
    patience: int = 256
    max_rounds: int = 1000

    def fresh(self) -> Limited:
        """Return a copy that has searched nothing, so that a strategy with state fails the same way
        each time; the strategy itself if it cannot be copied."""
        return Limited(pristine(self.searcher), self.limit)

    @property
    def needs_rollout_limit(self) -> bool:
        return self.searcher.needs_rollout_limit
