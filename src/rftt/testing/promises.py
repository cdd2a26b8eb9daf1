"""What every contract raises: a broken promise, as an exception whose docstring is its wording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class ContractViolation(AssertionError):  # noqa: N818
    """An implementation broke a promise. Each promise is a subclass, whose docstring is its wording.

    Attributes:
        promise: its name, with which the message begins.
        what: what was found.
        scenario: what led to it, such as the rounds so far and the tree, where that is known.
    """

    promise: str

    def __init__(self, what: str, scenario: str = "") -> None:
        super().__init__(what, scenario)
        self.what = what
        self.scenario = scenario

    def __str__(self) -> str:
        wording = " ".join((type(self).__doc__ or "").split())
        parts = (f"{self.promise}: {self.what}", f"The promise: {wording}", self.scenario)
        return "\n\n".join(part for part in parts if part)


class BrokenPromises(ContractViolation):
    """Several promises are broken. ``promise``, ``what`` and ``scenario`` are those of the first.

    Attributes:
        violations: each broken promise, the first found first.
        untried: promises that could not be tried, each with the reason.
    """

    def __init__(
        self, violations: Sequence[ContractViolation], untried: Mapping[str, str] | None = None
    ) -> None:
        first = violations[0]
        super().__init__(first.what, first.scenario)
        self.promise = first.promise
        self.violations = tuple(violations)
        self.untried = dict(untried or {})

    def __str__(self) -> str:
        names = ", ".join(violation.promise for violation in self.violations)
        parts = [str(violation) for violation in self.violations]
        if len(parts) > 1:
            parts = [f"{len(parts)} promises are broken: {names}", *parts]
        for reason in dict.fromkeys(self.untried.values()):
            names = ", ".join(name for name, why in self.untried.items() if why == reason)
            parts.append(f"Not tried, because {reason}: {names}")
        return f"\n\n{'-' * 40}\n\n".join(parts)


def wordings(module: str) -> dict[str, str]:
    """Return the wording of each promise that a module defines, by name."""
    return {
        broken.promise: " ".join((broken.__doc__ or "").split())
        for broken in ContractViolation.__subclasses__()
        if broken.__module__ == module
    }
