"""A finite reasoning problem of which every end and the optimum are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from attrs import frozen

from rftt.interfaces import State, Verdict, Verifier
from rftt.problems.problem import Problem
from rftt.testing.finite.tabular import TabularPolicy

Path = tuple[str, ...]
"""The texts of the steps from the question on."""


@frozen
class TabularVerifier(Verifier):
    """Judge solutions by a table from paths to verdicts.

    It abstains where the table has no entry: at a partial solution, or after a step that the policy's
    table does not have.
    """

    verdicts: Mapping[Path, Verdict]

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [self._verdict(tuple(step.text for step in state.steps)) for state in states]

    def _verdict(self, path: Path) -> Verdict:
        return self.verdicts.get(path) or Verdict(None, reason=f"the table has no verdict on {path}")


def leaves(policy: TabularPolicy, path: Path = ()) -> list[Path]:
    """Return all paths that begin with ``path`` and end a solution."""
    # Two replies with one text lead to the same path.
    following = dict.fromkeys((*path, reply.text) for reply in policy.replies(path))
    return [leaf for child in following for leaf in leaves(policy, child)] if following else [path]


@frozen(eq=False)
class FiniteProblem:
    """A policy and a verifier that are both tables.

    Attributes:
        policy: which steps may follow, and their probabilities.
        verdicts: one for each leaf, by the texts of the steps that lead to it.

    Raises:
        ValueError: naming the leaf that has no verdict, or the verdict that is not on a leaf.
    """

    policy: TabularPolicy
    verdicts: Mapping[Path, Verdict]

    def __attrs_post_init__(self) -> None:
        for path in self.leaves:
            if path not in self.verdicts:
                raise ValueError(f"verdicts: there is none for the leaf {path}")
        for path in self.verdicts:
            if path not in self.leaves:
                raise ValueError(f"verdicts: {path} is not a leaf of the policy's table")

    @cached_property
    def leaves(self) -> list[Path]:
        """All paths that end a solution."""
        return leaves(self.policy)

    @property
    def verifier(self) -> TabularVerifier:
        """The verdicts as a verifier."""
        return TabularVerifier(self.verdicts)

    @property
    def depth(self) -> int:
        """The number of steps to the deepest leaf."""
        return max(map(len, self.leaves))

    @property
    def best_leaf(self) -> Path | None:
        """The leaf with the highest score, the first of equals; ``None`` if no leaf has a score."""
        scored = [path for path in self.leaves if self.verdicts[path].score is not None]
        return max(scored, key=lambda path: self.verdicts[path].score or 0.0, default=None)

    @property
    def best_score(self) -> float | None:
        """The optimum."""
        return None if self.best_leaf is None else self.verdicts[self.best_leaf].score

    def problems(self, count: int = 1) -> list[Problem]:
        """Return ``count`` problems that differ in their ids alone."""
        return [Problem(f"p{i}", "what is it?") for i in range(count)]
