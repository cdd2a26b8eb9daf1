"""The smallest case that breaks a promise, as far as it is worth the time to look for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attrs import define

from rftt.testing.searcher.promises import ContractViolation


class EnoughError(BaseException):
    """No smaller case is looked for. hypothesis has no setting for that; it lets this pass."""


@define(eq=False)
class Smallest:
    """Count the cases since the first that broke a promise, and keep the smallest.

    Attributes:
        most: how many are tried.
        found: what the smallest breaks.
        cases: how many were tried.
    """

    most: int
    found: ContractViolation | None = None
    cases: int = 0

    def begin(self) -> None:
        """Begin on a case.

        Raises:
            EnoughError: if enough were tried.
        """
        self.cases += self.found is not None
        if self.is_enough:
            raise EnoughError

    @property
    def is_enough(self) -> bool:
        """Whether enough cases were tried."""
        return self.cases > self.most

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what is raised in the block."""
        try:
            yield
        except ContractViolation as violation:
            # What is tried after a case that broke a promise is smaller.
            self.found = violation
            raise
