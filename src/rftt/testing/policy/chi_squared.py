"""Pearson's test of goodness of fit, for counts of which not all classes are known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, TypeVar

from attrs import define

Name = TypeVar("Name")
_EXPECTED: Final = 10.0
"""Classes that are expected fewer times are put together."""
_DEVIATIONS: Final = 4.75
"""Standard deviations of a normal variable that are passed in fewer than one case in a million."""


@define
class Fit:
    """A chi-squared statistic that is added up over independent samples."""

    statistic: float = 0.0
    degrees: int = 0

    def add(self, log_probs: Mapping[Name, float], counts: Mapping[Name, int]) -> None:
        """Add a sample.

        Args:
            log_probs: of classes, at least of those that were drawn; what is missing from 1 is that of
                others, which never were.
            counts: how often each class was drawn.
        """
        draws = sum(counts.values())
        expected = {name: draws * math.exp(log_prob) for name, log_prob in log_probs.items()}
        classes = [(counts.get(name, 0), e) for name, e in expected.items() if e >= _EXPECTED]
        seen, mass = (sum(column) for column in zip(*classes, strict=True)) if classes else (0, 0.0)
        rare = (draws - seen, max(0.0, draws - mass))
        if rare[1] >= _EXPECTED:
            classes.append(rare)
        elif classes:
            classes.sort(key=lambda pair: pair[1])
            classes[0] = (classes[0][0] + rare[0], classes[0][1] + rare[1])
        if len(classes) > 1:
            self.statistic += sum((count - e) ** 2 / e for count, e in classes)
            self.degrees += len(classes) - 1

    @property
    def limit(self) -> float:
        """The statistic that is passed in fewer than one case in a million, by the approximation of
        Wilson and Hilferty (1931)."""
        if not self.degrees:
            return math.inf
        spread = 2 / (9 * self.degrees)
        return float(self.degrees * (1 - spread + _DEVIATIONS * spread**0.5) ** 3)

    @property
    def is_good(self) -> bool:
        """Whether chance may well be all."""
        return self.statistic <= self.limit
