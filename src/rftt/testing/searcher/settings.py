"""How thoroughly a search strategy is checked, and what is not demanded of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from attrs import frozen

from rftt.testing.searcher.promises import PROMISES, BestLeafBroken


@frozen(kw_only=True)
class CheckSettings:
    """The settings of :func:`~rftt.testing.searcher.check.check_searcher`.

    Attributes:
        rewards: the lowest and the highest score that a verifier gives.
        waived: promises that are not demanded, by name, each with the reason why it does not apply; for
            example ``{"ends": "samples until the budget is spent"}``.
        finds_best: whether the strategy is complete, so that it must find the best leaf of every finite
            problem in which forcing functions determines the path.
        max_examples: cases that are tried in each of the parts that draw cases.
        max_shrinks: cases that are then tried to find a smaller one that breaks the same promise.
        seed: decides which; the same seed tries the same.
        patience: rollouts after which an option that was passed over counts as starved.
        max_rounds: rounds after which a search of a handful of leaves counts as endless.
        seconds: most wall time of a call to the strategy, in any thread. ``math.inf`` is no limit, for a
            debugger. A call that waits in C code, outside the main thread, can only be logged.

    Raises:
        ValueError: if ``waived`` names a promise that does not exist, ``rewards`` is not a range, or
            ``seconds`` is not above 0.
    """

    rewards: tuple[float, float] = (-1.0, 1.0)
    waived: Mapping[str, str] | None = None
    finds_best: bool = False
    max_examples: int = 50
    max_shrinks: int = 150
    seed: int = 0
    patience: int = 256
    max_rounds: int = 1000
    seconds: float = 10.0

    def __attrs_post_init__(self) -> None:
        if unknown := set(self.waived or {}) - PROMISES.keys():
            known = ", ".join(PROMISES)
            raise ValueError(f"waived: there is no promise {min(unknown)!r}; there are: {known}")
        if not self.rewards[0] < self.rewards[1]:
            raise ValueError(
                f"rewards: {self.rewards} is not a range; give the lowest and a higher score"
            )
        if not self.seconds > 0:
            raise ValueError(
                f"seconds: {self.seconds} is no time; give the most wall time of a call, as 10.0"
            )

    def not_demanded(self) -> set[str]:
        """Return the names of the promises that are not tried."""
        on_request = set() if self.finds_best else {BestLeafBroken.promise}
        return set(self.waived or {}) | on_request


class CheckKeywords(TypedDict, total=False):
    """:class:`CheckSettings` as keyword arguments, for type checkers."""

    rewards: tuple[float, float]
    waived: Mapping[str, str] | None
    finds_best: bool
    max_examples: int
    max_shrinks: int
    seed: int
    patience: int
    max_rounds: int
    seconds: float
