"""Annotated solutions on their way from a tree to the warm-up data."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from rftt.interfaces import State, Step
from rftt.search.tree.tree import SearchTree

Kind = Literal["path", "checked", "merged"]


@frozen
class AnnotatedSolution:
    """A solution whose steps are marked by functional tokens.

    Attributes:
        tree: the tree that it was made of.
        kind: how it was made; see :mod:`rftt.training.warmup`.
        steps: the steps; those with a false ``action_mask`` are to be read, not to be learned.
    """

    tree: SearchTree
    kind: Kind
    steps: tuple[Step, ...]


@frozen
class UncheckedSolution:
    """A solution that lacks a check.

    Attributes:
        tree, kind, steps: as in the annotated solution.
        place: where the check is to stand among the steps.
        state: what the model is shown when it is asked for the check.
        hint: what it is shown beyond that.
    """

    tree: SearchTree
    kind: Kind
    steps: tuple[Step, ...]
    place: int
    state: State
    hint: str = ""

    def add(self, check: Step) -> AnnotatedSolution:
        """Return the solution with its check."""
        steps = (*self.steps[: self.place], check, *self.steps[self.place :])
        return AnnotatedSolution(self.tree, self.kind, steps)
