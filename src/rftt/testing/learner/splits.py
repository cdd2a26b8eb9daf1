"""Promises on how a batch is held: padding, order, parts, packing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs
import torch
from torch import Tensor
from torch.nn.functional import pad

from rftt.learners.experience import Experience
from rftt.learners.forward.micro_batches import micro_batches
from rftt.learners.learner import Learner
from rftt.search.tree.tree import SearchTree
from rftt.testing.learner.measured import change, difference, measure, total
from rftt.testing.learner.promises import (
    MicroBatchBroken,
    OrderBroken,
    PackingBroken,
    PaddingBroken,
)
from rftt.testing.learner.workbench import Workbench, copied
from rftt.testing.promises import ContractViolation

_PARTS: Final = ((1, True), (24, False), (60, True))
"""Tokens in a micro-batch, and whether a shared one counts once: one unit each, a few, and about half
the batch."""


def check_padding(bench: Workbench) -> None:
    """Check that padding has no influence."""
    _unchanged(bench, _padded, PaddingBroken, "with three more columns of padding that hold other ids")
    learner, model = bench.learner(off_policy=True), bench.model(off_policy=True)
    trees = bench.trees()
    ends = sorted(
        ((number, end) for number, tree in enumerate(trees) for end in tree.ends()),
        key=lambda place: _length(trees[place[0]], place[1]),
    )
    # The sequences hold as many tokens in both cases; only the padding of the others differs.
    short, long = (
        measure(learner, model, bench.batch(learner, model, _observed(trees, *place)))
        for place in (ends[0], ends[-1])
    )
    if what := difference(long, short):
        raise PaddingBroken(
            "six ids that were not drawn, at the end of the longest path instead of the shortest, so "
            f"that the others are padded to more: {what}"
        )


def check_order(bench: Workbench) -> None:
    """Check that the order of sequences, and that of trees, has no influence."""
    _unchanged(bench, lambda batch: batch.select(_shuffled(len(batch))), OrderBroken, "shuffled")
    model = bench.model(off_policy=True)
    trees = bench.trees()
    forwards, backwards = (
        measure(learner, model, bench.batch(learner, model, some))
        for some in (trees, trees[::-1])
        for learner in (bench.learner(off_policy=True),)
    )
    if what := difference(backwards, forwards, with_metrics=True):
        raise OrderBroken(f"with the trees in reverse order, {what}")


def check_micro_batches(bench: Workbench) -> None:
    """Check that losses, metrics and gradients of parts add up to those of the whole."""
    learner, model = bench.learner(off_policy=True), bench.model(off_policy=True)
    batch = bench.batch(learner, model, bench.trees())
    # Sequences without an action are in no part.
    whole = measure(learner, model, batch.select(batch.action_mask.any(1).nonzero()[:, 0]))
    for max_tokens, packed in _PARTS:
        parts = list(micro_batches(batch, max_tokens, packed=packed))
        found = total(measure(learner, model, part) for part in parts)
        if what := difference(found, whole, with_metrics=True):
            raise MicroBatchBroken(
                f"in {len(parts)} micro-batches of {[len(part) for part in parts]} sequences, {what}"
            )


def check_packing(bench: Workbench) -> None:
    """Check that sequences give what they give where they share no prefix, and with packing off."""
    learner, model = bench.learner(off_policy=True), bench.model(off_policy=True)
    batch = bench.batch(learner, model, bench.trees())
    apart = measure(learner, model, _with_questions_of_their_own(batch))
    together = measure(learner, model, batch)
    if what := difference(together, apart, with_metrics=True):
        raise PackingBroken(
            f"{len(batch)} sequences, against the same with questions so that no two have a common "
            f"prefix: {what}"
        )
    settings: Any = learner
    if attrs.has(type(settings)) and hasattr(settings, "packing"):
        for packing in ("tree", "none"):
            other: Learner = attrs.evolve(settings, packing=packing)
            if what := difference(measure(other, model, batch), apart):
                raise PackingBroken(f"with packing={packing!r}, against no common prefix: {what}")


def _unchanged(
    bench: Workbench,
    edit: Callable[[Experience], Experience],
    broken: type[ContractViolation],
    how: str,
) -> None:
    learner, model = bench.learner(off_policy=True), bench.model(off_policy=True)
    batch = bench.batch(learner, model, bench.trees())
    expected = measure(learner, model, batch)
    if what := difference(measure(learner, model, edit(batch)), expected, with_metrics=True):
        raise broken(f"{how}, {what}")


def _padded(batch: Experience) -> Experience:
    width, generator = batch.ids.shape[1], torch.Generator().manual_seed(0)

    def longer(name: str, values: Tensor) -> Tensor:
        if values.dim() < 2 or values.shape[1] != width:
            return values
        values = pad(values, (0, 0) * (values.dim() - 2) + (0, 3))
        if name == "ids":
            other = torch.randint(1, int(values.max()) + 1, values.shape, generator=generator)
            values = torch.where(pad(batch.attention_mask, (0, 3)), values, other)
        return values

    return change(batch, longer)


def _with_questions_of_their_own(batch: Experience) -> Experience:
    """Return the batch with questions of different lengths: so many more of their first id."""
    number, width = batch.ids.shape
    places = torch.arange(width + number) - torch.arange(number)[:, None]

    def moved(name: str, values: Tensor) -> Tensor:
        if values.dim() < 2 or values.shape[1] != width:
            return values
        # The first place of a sequence is neither an action nor credited.
        index = places.clamp(0, width - 1).view(*places.shape, *[1] * (values.dim() - 2))
        taken = values.gather(1, index.expand(*places.shape, *values.shape[2:]))
        beyond = (places >= width).view(index.shape)
        return taken.masked_fill(beyond, 0)

    return change(batch, moved)


def _shuffled(number: int) -> Tensor:
    return torch.randperm(number, generator=torch.Generator().manual_seed(0))


def _length(tree: SearchTree, end: int) -> int:
    return sum(len(step.ids) for step in tree.state(end).steps)


def _observed(trees: list[SearchTree], number: int, end: int) -> list[SearchTree]:
    """Return the trees with six ids at one end that the policy did not draw."""
    trees = copied(trees)
    step = trees[number].step[end]
    assert step is not None
    trees[number].step[end] = attrs.evolve(
        step, ids=step.ids + step.ids[-1:] * 6, log_probs=step.log_probs + (0.0,) * 6,
        action_mask=step.action_mask + (False,) * 6,
    )  # fmt: skip
    return trees
