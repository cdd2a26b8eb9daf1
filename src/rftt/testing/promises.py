"""What every contract raises: a broken promise, as an exception whose docstring is its wording."""

from __future__ import annotations

from typing import ClassVar


class ContractViolation(AssertionError):  # noqa: N818
    """An implementation broke a promise. Each promise is a subclass, whose docstring is its wording.

    Attributes:
        promise: its name, with which the message begins.
        what: what was found.
        scenario: what led to it, such as the rounds so far and the tree, where that is known.
    """

    promise: ClassVar[str]

    def __init__(self, what: str, scenario: str = "") -> None:
        super().__init__(what, scenario)
        self.what = what
        self.scenario = scenario

    def __str__(self) -> str:
        wording = " ".join((type(self).__doc__ or "").split())
        parts = (f"{self.promise}: {self.what}", f"The promise: {wording}", self.scenario)
        return "\n\n".join(part for part in parts if part)


def wordings(module: str) -> dict[str, str]:
    """Return the wording of each promise that a module defines, by name."""
    return {
        broken.promise: " ".join((broken.__doc__ or "").split())
        for broken in ContractViolation.__subclasses__()
        if broken.__module__ == module
    }
