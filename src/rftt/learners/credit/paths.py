"""What credit assignment returns: for each judged path, an advantage and a weight a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from attrs import field, frozen

from rftt.search.tree.tree import SearchTree


def _floats(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(map(float, values))


@frozen
class PathCredit:
    """The credit of one path of a tree.

    Attributes:
        end: the node at which it ends.
        count: the number of rollouts that it stands for.
        advantages: for each step, how much better it was than expected.
        weights: for each step, how often its tokens count in the loss. A step that several paths share
            counts as often as their weights at it say together.

    Raises:
        ValueError: if ``advantages`` and ``weights`` differ in length.
    """

    end: int
    count: float = field(converter=float)
    advantages: tuple[float, ...] = field(converter=_floats)
    weights: tuple[float, ...] = field(converter=_floats)

    def __attrs_post_init__(self) -> None:
        if len(self.advantages) != len(self.weights):
            raise ValueError(
                f"path to node {self.end}: {len(self.advantages)} advantages and {len(self.weights)} "
                "weights; give one of each for every step"
            )


Credit = Callable[[Sequence[SearchTree]], list[list[PathCredit]]]
"""Credit assignment: from trees to the credit of each tree's judged paths, tree by tree, in order."""
