"""Packed rows hold every prefix once and show each place its own path only; parts of a batch add up."""

from __future__ import annotations

import logging
from random import Random

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from rftt.learners.experience import Experience
from rftt.learners.forward.micro_batches import micro_batches, minibatches
from rftt.learners.forward.packing import PackedBatch, pack_prefixes, shared_prefix_order
from rftt.learners.forward.tree_mask import RUN, TreeMask, dense_mask
from tests.learners.tries import Row, as_experience, distinct_prefixes, grown_rows, ragged_rows


def pack(batch: Experience, max_row_tokens: int = 10**6) -> PackedBatch:
    return pack_prefixes(batch.ids, batch.attention_mask, batch.states, max_row_tokens=max_row_tokens)


@given(ragged_rows(), st.integers(1, 30))
def test_every_place_sees_its_own_path_and_nothing_else(rows: list[Row], limit: int) -> None:
    packed = pack(as_experience(rows), limit)
    width = packed.ids.shape[1]
    seen = dense_mask(packed.subtree_end)[:, 0]
    for number, row in enumerate(rows):
        places = packed.places[number, : len(row)].tolist()
        assert packed.ids.flatten()[places].tolist() == [i for i, _ in row]
        assert packed.position_ids.flatten()[places].tolist() == list(range(len(row)))
        for depth, place in enumerate(places):
            packed_row, column = divmod(place, width)
            visible = seen[packed_row, column].nonzero()[:, 0] + packed_row * width
            assert visible.tolist() == places[: depth + 1]
    padding = torch.ones(packed.ids.numel(), dtype=torch.bool)
    padding[packed.places[as_experience(rows).attention_mask]] = False
    assert (seen.flatten(0, 1)[padding].sum(1) == 1).all()
    assert width <= max(limit, *map(len, rows))


@given(ragged_rows())
def test_every_prefix_is_there_once(rows: list[Row]) -> None:
    batch = as_experience(rows)
    packed = pack(batch)
    assert packed.ids.shape == (1, distinct_prefixes(rows))
    order, new = shared_prefix_order(batch.ids, batch.attention_mask, batch.states)
    assert sorted(order) == list(range(len(rows)))
    assert sum(new) == distinct_prefixes(rows)
    for number in range(1, len(order) + 1):
        assert sum(new[:number]) == distinct_prefixes([rows[i] for i in order[:number]])


def test_a_token_drawn_in_another_state_is_another_token() -> None:
    packed = pack(as_experience([[(1, 0), (2, 0), (3, 0)], [(1, 0), (2, 1), (3, 0)]]))
    assert packed.ids.tolist() == [[1, 2, 3, 2, 3]]
    assert packed.subtree_end.tolist() == [[5, 3, 3, 5, 5]]


def test_a_path_that_is_too_long_has_a_row_of_its_own() -> None:
    rows = [[(1, 0), (2, 0)], [(1, 0), (3, 0)], [(5, 0)] * 7]
    packed = pack(as_experience(rows), 3)
    assert packed.ids.tolist() == [[1, 2, 3, 0, 0, 0, 0], [5] * 7]


def test_nothing_packs_to_nothing() -> None:
    assert pack(as_experience([[(1, 0)]]).select(torch.zeros(0, dtype=torch.int64))).ids.shape == (0, 0)


@pytest.mark.parametrize("limit", [10**6, 200, 300])
@pytest.mark.parametrize("key_heads", [1, 3])
def test_attention_in_runs_equals_attention_under_the_dense_mask(limit: int, key_heads: int) -> None:
    packed = pack(as_experience(grown_rows(0)), limit)
    rows, width = packed.ids.shape
    assert width > 2 * RUN
    assert width % RUN
    torch.manual_seed(0)
    # Heads are shared by repetition, as transformers does it where there is a mask.
    shapes = [(rows, 3, width, 8), (rows, key_heads, width, 8), (rows, key_heads, width, 8)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    weight = torch.randn(rows, 3, width, 8, dtype=torch.float64)

    def run(mask: torch.Tensor) -> list[torch.Tensor]:
        query, key, value = inputs
        key, value = (t.expand(-1, 3, -1, -1) for t in (key, value))
        found = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.5)
        return [found, *torch.autograd.grad((found * weight).sum(), inputs)]

    mask = TreeMask.of(packed.subtree_end)
    for ours, expected in zip(run(mask), run(dense_mask(packed.subtree_end)), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_a_tree_mask_is_a_dense_one_to_all_else() -> None:
    packed = pack(as_experience(grown_rows(1)))
    mask, dense = TreeMask.of(packed.subtree_end), dense_mask(packed.subtree_end)
    assert mask.shape == dense.shape
    assert mask.dtype == torch.bool
    assert isinstance(mask.detach(), TreeMask)
    for ours, expected in [
        (mask.float(), dense.float()),
        (mask[..., :5], dense[..., :5]),
        (torch.where(mask, 0.0, -1.0), torch.where(dense, 0.0, -1.0)),
        (~mask, ~dense),
    ]:
        assert type(ours) is torch.Tensor
        assert torch.equal(ours, expected)
    # Keys beyond the mask's own are not its business.
    longer = torch.randn(1, 1, mask.shape[-1] - 3, 4)
    with pytest.raises(RuntimeError):
        scaled_dot_product_attention(longer, longer, longer, attn_mask=mask)


def marked(rows: list[Row], units: list[int], actions: list[bool]) -> Experience:
    """Rows that are told apart by their counts; some have no action."""
    batch = as_experience(rows)
    mask = batch.action_mask & torch.tensor(actions)[:, None]
    counts = torch.arange(1.0, len(rows) + 1)
    batch = attrs.evolve(
        batch, action_mask=mask, units=torch.tensor(units), counts=counts,
        weights=batch.weights * mask * counts[:, None],
    )  # fmt: skip
    return batch.with_totals()


Marked = tuple[list[Row], list[int], list[bool]]


@st.composite
def marked_rows(draw: st.DrawFn) -> Marked:
    """Rows, the unit of each, and whether it has an action."""
    rows = draw(ragged_rows())
    flags = st.sampled_from([True, True, True, False])
    return rows, [draw(st.integers(0, 4)) for _ in rows], [draw(flags) for _ in rows]


def numbers(part: Experience) -> list[int]:
    return [int(count) - 1 for count in part.counts]


@given(marked_rows(), st.integers(1, 30), st.booleans())
def test_micro_batches_are_a_partition(made: Marked, limit: int, packed: bool) -> None:
    rows, batch = made[0], marked(*made)
    parts = [numbers(part) for part in micro_batches(batch, limit, packed=packed)]
    kept = batch.action_mask.any(1).nonzero()[:, 0].tolist()
    assert sorted(number for part in parts for number in part) == kept
    for part in parts:
        held = [rows[number] for number in part]
        cost = distinct_prefixes(held) if packed else len(held) * max(map(len, held))
        assert cost <= limit or len(set(batch.units[part].tolist())) == 1
    units = [set(batch.units[part].tolist()) for part in parts]
    assert sum(map(len, units)) == len(set().union(*units))
    assert all(part.totals == batch.totals for part in micro_batches(batch, limit, packed=packed))


def test_micro_batches_are_as_few_as_sharing_allows() -> None:
    """Two trees of 4 paths, interleaved, with 5 + 4 distinct tokens each: two parts of at most 9."""
    rows = [[(tree, 0)] * 5 + [(10 + end, 0)] for end in range(4) for tree in range(2)]
    batch = as_experience(rows)
    assert [len(part) for part in micro_batches(batch, 9)] == [4, 4]
    assert [len(part) for part in micro_batches(batch, 9, packed=False)] == [1] * 8
    assert [len(part) for part in micro_batches(batch, 18)] == [8]


def test_sequences_without_an_action_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    batch = marked([[(1, 0), (2, 0)]] * 3, [0, 1, 2], [True, False, False])
    with caplog.at_level(logging.INFO):
        assert [numbers(part) for part in micro_batches(batch, 9)] == [[0]]
    assert "left out 2 of 3 sequences" in caplog.text
    with pytest.raises(ValueError, match="max_tokens"):
        list(micro_batches(batch, 0))


@given(marked_rows(), st.integers(1, 4), st.integers(0, 5))
def test_minibatches_are_a_partition_with_totals_of_their_own(
    made: Marked, number: int, seed: int
) -> None:
    rows, batch = made[0], marked(*made)
    parts = minibatches(batch, number, seed)
    assert len(parts) == number
    assert sorted(i for part in parts for i in numbers(part)) == list(range(len(rows)))
    units = [set(part.units.tolist()) for part in parts]
    assert sum(map(len, units)) == len(set(batch.units.tolist()))
    held = [
        str([[i for i, _ in row] for row, of in zip(rows, made[1], strict=True) if of == unit])
        for unit in set(made[1])
    ]
    if len(set(held)) == len(held):  # units of equal ids stay together
        assert max(map(len, units)) - min(map(len, units)) <= 1
    assert all(part.totals == part.with_totals().totals for part in parts)
    assert sum(part.totals.sequences for part in parts) == batch.totals.sequences
    assert [numbers(part) for part in minibatches(batch, number, seed)] == [numbers(p) for p in parts]


def test_minibatches_are_drawn_by_the_seed() -> None:
    rng = Random(0)
    rows = [[(rng.randrange(50), 0) for _ in range(4)] for _ in range(16)]
    batch = marked(rows, list(range(16)), [True] * 16)
    assert len({str([numbers(p) for p in minibatches(batch, 4, seed)]) for seed in range(8)}) == 8
    with pytest.raises(ValueError, match="minibatches"):
        minibatches(batch, 0, 0)
