"""How a setting changes while a tree grows."""

from __future__ import annotations

from collections.abc import Callable

from attrs import field, frozen, validators

Schedule = Callable[[int], float]
"""From the rollouts a tree has had to a number."""


@frozen
class Constant:
    """Always the same."""

    value: float = field(validator=validators.ge(0))

    def __call__(self, rollouts: int) -> float:
        return self.value


@frozen
class Linear:
    """From ``start`` to ``end`` in even steps over ``rollouts``; ``end`` from there."""

    start: float = field(validator=validators.ge(0))
    end: float = field(validator=validators.ge(0))
    rollouts: int = field(validator=validators.ge(1))

    def __call__(self, rollouts: int) -> float:
        share = min(1.0, rollouts / self.rollouts)
        return self.start + (self.end - self.start) * share


@frozen
class Exponential:
    """From ``start`` to ``end`` by an even factor over ``rollouts``; ``end`` from there."""

    start: float = field(validator=validators.gt(0))
    end: float = field(validator=validators.gt(0))
    rollouts: int = field(validator=validators.ge(1))

    def __call__(self, rollouts: int) -> float:
        share = min(1.0, rollouts / self.rollouts)
        return float(self.start * (self.end / self.start) ** share)


def as_schedule(value: float | Schedule) -> Schedule:
    """A number as the schedule that never changes."""
    return Constant(value) if isinstance(value, (int, float)) else value


@frozen
class Widening:
    """Progressive widening (Coulom 2007): a node with ``n`` visits may have ``factor * n ** exponent``
    children, rounded down, and one at the least."""

    factor: float = field(default=1.0, validator=validators.gt(0))
    exponent: float = field(default=0.5, validator=[validators.gt(0), validators.lt(1)])

    def __call__(self, visits: int) -> int:
        return max(1, int(self.factor * visits**self.exponent))
