"""Split an experience: into micro-batches that fit in memory, or into minibatches with a step each."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator

import attrs
import numpy as np
import torch
from numpy.typing import NDArray

from rftt.learners.distributed import gather, global_sum
from rftt.learners.experience import BatchTotals, Experience
from rftt.learners.forward.packing import shared_prefix_order
from rftt.search.seeding import seed_from

_log = logging.getLogger(__name__)


def micro_batches(
    experience: Experience, max_tokens: int, *, packed: bool = True
) -> Iterator[Experience]:
    """Split an experience into parts whose losses add up to its own.

    Each row with an action is in exactly one part; the rows of a unit are in the same. A unit that is
    larger than ``max_tokens`` is a part of its own. Rows without an action are left out.

    Args:
        experience: what is split. Each part keeps its totals.
        max_tokens: most tokens in a part.
        packed: whether a prefix that rows of a part share counts once, as in a packed forward pass;
            otherwise a part counts rows x width, padding included.

    Raises:
        ValueError: if ``max_tokens`` is not positive.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be 1 or more, not {max_tokens}")
    rows = experience.action_mask.any(1).nonzero()[:, 0]
    if left_out := len(experience) - len(rows):
        _log.info("left out %d of %d sequences: they have no action", left_out, len(experience))
    if not len(rows):
        return
    kept = experience.select(rows)
    # Rows of like cost are neighbours: with shared prefixes, or of like length.
    lengths = kept.attention_mask.sum(1).cpu().numpy()
    order = np.argsort(lengths, kind="stable")
    shared = np.zeros_like(lengths)
    if packed:
        sorted_rows, new_tokens = shared_prefix_order(kept.ids, kept.attention_mask, kept.states)
        order = np.array(sorted_rows)
        shared = lengths[order] - np.array(new_tokens)
    lengths = lengths[order]

    def cost(numbers: NDArray[np.int64]) -> int:
        """Return the tokens of rows, given by their sorted numbers in the order."""
        if not packed:
            return len(numbers) * int(lengths[numbers].max())
        tokens = int(lengths[numbers].sum())
        if len(numbers) > 1:
            # Two rows share what all neighbours between them share.
            tokens -= int(np.minimum.reduceat(shared[: numbers[-1] + 1], numbers[:-1] + 1).sum())
        return tokens

    part: list[int] = []
    for unit in _by_unit(kept.units.cpu().numpy()[order]):
        if part and cost(np.sort(part + unit)) > max_tokens:
            yield _select(kept, order[part])
            part = []
        part += unit
    yield _select(kept, order[part])


def minibatches(experience: Experience, number: int, seed: int) -> list[Experience]:
    """Split an experience at random into parts of about equal numbers of units, each with its own
    totals.

    The rows of a unit stay together; so do units that are equal. Every process calls it with the same
    ``number`` and gets its rows of so many parts, some of them perhaps empty. Parts and totals are those
    of all processes, however the rows are spread over them.

    Args:
        experience: what is split; every row goes to exactly one part.
        number: of parts.
        seed: decides the draw.

    Raises:
        ValueError: if ``number`` is not positive.
    """
    if number < 1:
        raise ValueError(f"number of minibatches must be 1 or more, not {number}")
    units = _by_unit(experience.units.cpu().numpy())
    # A key of what a unit holds, so that its part does not depend on the process that holds it.
    keys = [_key(experience, unit, seed) for unit in units]
    ordered = sorted(key for some in gather(keys) for key in some)
    rows: list[list[int]] = [[] for _ in range(number)]
    for unit, key in zip(units, keys, strict=True):
        rows[bisect_left(ordered, key) * number // len(ordered)].extend(unit)
    parts = [_select(experience, np.array(sorted(part), np.int64)).with_totals() for part in rows]
    sums = global_sum([total for part in parts for total in attrs.astuple(part.totals)])
    size = len(attrs.fields(BatchTotals))
    totals = [BatchTotals(*sums[place : place + size]) for place in range(0, len(sums), size)]
    return [attrs.evolve(part, totals=own) for part, own in zip(parts, totals, strict=True)]


def _key(experience: Experience, rows: list[int], seed: int) -> int:
    # Without padding, which is as wide as the longest row of this process.
    ids = [experience.ids[row][experience.attention_mask[row]].tolist() for row in rows]
    return seed_from(f"{seed}/{ids}")


def _by_unit(units: NDArray[np.int64]) -> list[list[int]]:
    """Return the places of each unit, in the order in which units first come."""
    places: dict[int, list[int]] = {}
    for place, unit in enumerate(units.tolist()):
        places.setdefault(unit, []).append(place)
    return list(places.values())


def _select(experience: Experience, rows: NDArray[np.int64]) -> Experience:
    return experience.select(torch.from_numpy(rows).to(experience.ids.device))
