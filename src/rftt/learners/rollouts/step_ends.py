"""Numbers of steps, such as rewards, at the last tokens of the steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rftt.learners.experience import Experience
from rftt.search.tree.tree import SearchTree


def at_step_ends(
    batch: Experience,
    ends: Sequence[tuple[SearchTree, int]],
    numbers: Sequence[Sequence[float]],
) -> Float[Tensor, "batch tokens"]:
    """Return each step's number at the place of its last id, 0 elsewhere.

    A step without ids has its number added to the last id before it.

    Args:
        batch: the sequences: a question and the steps of a path, as
            :func:`~rftt.learners.rollouts.paths.path_experience` lays them out.
        ends: for each sequence, the tree and the node at which its path ends.
        numbers: for each sequence, one number a step.

    Raises:
        ValueError: naming the path, if there are more numbers than steps or fewer, or one is not finite.
    """
    result = torch.zeros_like(batch.returns)
    lengths = batch.attention_mask.sum(1).tolist()
    for row, ((tree, end), length, own) in enumerate(zip(ends, lengths, numbers, strict=True)):
        steps = tree.state(end).steps
        if len(own) != len(steps):
            raise ValueError(
                f"tree {tree.problem.id!r}, path to node {end}: {len(own)} numbers for {len(steps)} "
                "steps; give one a step"
            )
        if not all(map(math.isfinite, own)):
            raise ValueError(
                f"tree {tree.problem.id!r}, path to node {end}: its steps have the numbers {list(own)}; "
                "nothing can be learned from what is not finite"
            )
        place = length - 1
        for step, number in zip(reversed(steps), reversed(own), strict=True):
            result[row, place] += number
            place -= len(step.ids)
    return result
