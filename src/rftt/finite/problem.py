"""A finite reasoning problem whose every end and optimum is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

from rftt.finite.tabular import TabularPolicy
from rftt.interfaces import Solution, Verdict, Verifier
from rftt.problems.problem import Problem

Path = tuple[str, ...]
"""The texts of the steps from the question on."""


@frozen
class TabularVerifier(Verifier):
    """A verifier written out as a table from paths to verdicts. It abstains where the table has no
    entry: a solution that was cut short, or a step that the policy does not know."""

    verdicts: Mapping[Path, Verdict]

    def judge(self, problem: Problem, solutions: Sequence[Solution]) -> list[Verdict]:
        return [self._verdict(tuple(step.text for step in solution.steps)) for solution in solutions]

    def _verdict(self, path: Path) -> Verdict:
        return self.verdicts.get(path) or Verdict(None, reason=f"the table has no verdict on {path}")


def leaves(policy: TabularPolicy, path: Path = ()) -> list[Path]:
    """All paths that begin with ``path`` and at which a solution ends."""
    # Two replies of one text lead to one place.
    after = dict.fromkeys((*path, reply.text) for reply in policy.replies(path))
    return [leaf for longer in after for leaf in leaves(policy, longer)] if after else [path]


@frozen(eq=False)
class FiniteProblem:
    """A policy and a verifier that are both tables.

    Attributes:
        policy: what may be said, and how likely it is.
        verdicts: one for each leaf, by the texts of the steps that lead to it.

    Raises ``ValueError`` naming the leaf that has no verdict, or the verdict that is on no leaf.
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

    @property
    def leaves(self) -> list[Path]:
        """All ways in which a solution may end."""
        return leaves(self.policy)

    @property
    def verifier(self) -> TabularVerifier:
        return TabularVerifier(self.verdicts)

    @property
    def depth(self) -> int:
        """The number of steps to the farthest leaf."""
        return max(map(len, self.leaves))

    @property
    def best_leaf(self) -> Path | None:
        """A leaf with the highest score (the first of equals), ``None`` if no leaf has one."""
        judged = [path for path in self.leaves if self.verdicts[path].score is not None]
        return max(judged, key=lambda path: self.verdicts[path].score or 0.0, default=None)

    @property
    def best_score(self) -> float | None:
        """The optimum."""
        return None if self.best_leaf is None else self.verdicts[self.best_leaf].score

    def problems(self, count: int = 1) -> list[Problem]:
        """As many problems as are wanted, alike but for their ids."""
        return [Problem(f"p{i}", "what is it?") for i in range(count)]
