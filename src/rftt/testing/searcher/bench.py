"""What is checked, and with what settings."""

from __future__ import annotations

from attrs import define, field

from rftt.search.searcher import Searcher
from rftt.testing.searcher.calls.forwarding import Limited, pristine
from rftt.testing.searcher.calls.time_limit import TimeLimit
from rftt.testing.searcher.settings import CheckSettings


class AbandonedError(Exception):
    """A case cannot go on because of a promise that is not demanded, such as an error in a strategy that
    may raise."""


@define(eq=False)
class Bench:
    """The strategy, and what is demanded of it.

    Attributes:
        searcher: the strategy, which is never called itself.
        settings: how it is checked.
        skipped: names of promises that are not demanded: waived, or known to be broken.
        limit: on the time of one call.
    """

    searcher: Searcher
    settings: CheckSettings
    skipped: set[str] = field(init=False)
    limit: TimeLimit = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.skipped = self.settings.not_demanded()
        self.limit = TimeLimit(self.settings.seconds)

    def fresh(self) -> Limited:
        """Return a copy that has searched nothing, so that a strategy with state fails the same way
        each time; the strategy itself if it cannot be copied."""
        return Limited(pristine(self.searcher), self.limit)

    @property
    def needs_rollout_limit(self) -> bool:
        return self.searcher.needs_rollout_limit
