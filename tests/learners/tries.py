"""Sequences that share prefixes, for tests of packing."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import attrs
import torch
from hypothesis import strategies as st

from rftt.learners.experience import Experience, TokenSequence, pad_sequences

Row = list[tuple[int, int]]
"""Pairs of id and automaton state."""


def as_experience(rows: Sequence[Row], question: int = 1) -> Experience:
    """An experience of rows whose ids after the question are actions."""
    sequences = [
        TokenSequence([i for i, _ in row], [place >= question for place in range(len(row))])
        for row in rows
    ]
    batch = pad_sequences(sequences)
    states = torch.zeros_like(batch.ids)
    for number, row in enumerate(rows):
        states[number, : len(row)] = torch.tensor([state for _, state in row])
    return attrs.evolve(batch, states=states)


@st.composite
def ragged_rows(draw: st.DrawFn, ids: int = 3, states: int = 2) -> list[Row]:
    """Few ids, so that rows share prefixes, repeat or contain each other; each has two ids or more."""
    pair = st.tuples(st.integers(0, ids - 1), st.integers(0, states - 1))
    return draw(st.lists(st.lists(pair, min_size=2, max_size=8), min_size=1, max_size=7))


def grown_rows(
    seed: int, rollouts: int = 12, trees: int = 2, ids: int = 40, step: int = 12
) -> list[Row]:
    """Rollouts of trees as a search grows them: each leaves another somewhere and goes its own way."""
    rng = Random(seed)
    rows: list[Row] = []
    for _ in range(trees):
        tree = [_random_row(rng, ids, 5)]
        for _ in range(rollouts):
            start = rng.choice(tree)
            tree.append(
                start[: rng.randint(3, len(start))] + _random_row(rng, ids, rng.randint(1, step))
            )
        rows += tree[1:]
    rows.append(rows[0])
    rng.shuffle(rows)
    return rows


def _random_row(rng: Random, ids: int, length: int) -> Row:
    return [(rng.randrange(ids), 0) for _ in range(length)]


def distinct_prefixes(rows: Sequence[Row]) -> int:
    """The number of different prefixes of some rows, the empty one left out."""
    return len({tuple(row[:stop]) for row in rows for stop in range(1, len(row) + 1)})
