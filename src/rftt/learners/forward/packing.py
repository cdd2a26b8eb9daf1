"""Pack rows that share prefixes, so that a model computes each distinct prefix token once.

The rows are the paths of a trie whose nodes are pairs of id and state. Sorted lexicographically, each
row adds what its predecessor does not begin with. The tokens added, row after row, are the trie in
depth-first pre-order: a node's subtree is a run of places, so one integer a place stands for the
attention mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from attrs import frozen
from jaxtyping import Bool, Int64
from numpy.typing import NDArray
from torch import Tensor


@frozen(eq=False)
class PackedBatch:
    """Rows of a model's input, each of them subtrees of a trie in depth-first pre-order.

    Place ``j`` is visible from place ``i`` of its row if and only if ``j <= i < subtree_end[j]``.

    Attributes:
        ids: token ids; 0 in the padding on the right.
        position_ids: the depth of each place in the trie, which is its position on its own path.
        subtree_end: for each place, the first one after its subtree. Padding sees only itself.
        places: for each place of the flat rows, where it went in the flattened ``ids``; 0 for padding.
    """

    ids: Int64[Tensor, "rows width"]
    position_ids: Int64[Tensor, "rows width"]
    subtree_end: Int64[Tensor, "rows width"]
    places: Int64[Tensor, "batch tokens"]


@frozen(eq=False)
class Targets:
    """The distinct actions of a packed batch.

    Attributes:
        parents: the place before each, in the flattened packed ids.
        ids: the action.
        states: the automaton's state in which it was drawn.
    """

    parents: Int64[Tensor, " targets"]
    ids: Int64[Tensor, " targets"]
    states: Int64[Tensor, " targets"]


def pack_prefixes(
    ids: Int64[Tensor, "batch tokens"],
    attention_mask: Bool[Tensor, "batch tokens"],
    states: Int64[Tensor, "batch tokens"],
    *,
    max_row_tokens: int,
) -> PackedBatch:
    """Pack right-padded flat rows into rows of at most ``max_row_tokens`` places.

    A larger trie is cut between its paths; each part begins with the path that the cut crosses, computed
    once more. A single path longer than ``max_row_tokens`` gets a row of its own.

    Args:
        ids: token ids.
        attention_mask: which places hold a token.
        states: what must be equal beside the id for a token to be shared: the automaton's state.
        max_row_tokens: most places in a packed row. The attention mask has rows x width x width places.
    """
    keys = _keys(ids, attention_mask, states)
    order, shared = _sorted_with_shared(keys)
    # A node is a place before it is known how wide the packed rows are.
    node_id, node_depth, node_end = (np.zeros(sum(map(len, keys)), np.int64) for _ in range(3))
    flat_ids = ids.cpu().numpy()
    nodes = np.zeros(flat_ids.shape, np.int64)
    starts: list[int] = []  # the first node of each packed row
    path = np.zeros(0, np.int64)  # the nodes of the row before
    size = 0
    for row, kept in zip(order, shared, strict=True):
        length = len(keys[row])
        if not starts or size - starts[-1] + length - kept > max_row_tokens:
            node_end[path] = size
            starts.append(size)
            kept = 0
        # The nodes that this row does not share have no more below them.
        node_end[path[kept:]] = size
        added = np.arange(size, size + length - kept)
        node_id[added], node_depth[added] = flat_ids[row, kept:length], np.arange(kept, length)
        path = np.concatenate([path[:kept], added])
        nodes[row, :length] = path
        size += length - kept
    node_end[path] = size

    bounds = np.array([*starts, size])
    row_of_node = np.repeat(np.arange(len(starts)), np.diff(bounds))
    column = np.arange(size) - bounds[row_of_node]
    width = int(np.diff(bounds).max(initial=0))
    shape = (len(starts), width)
    packed_ids, position_ids = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    subtree_end = np.tile(np.arange(1, width + 1), (len(starts), 1))
    packed_ids[row_of_node, column] = node_id[:size]
    position_ids[row_of_node, column] = node_depth[:size]
    subtree_end[row_of_node, column] = node_end[:size] - bounds[row_of_node]
    places = np.zeros_like(nodes)
    held = attention_mask.cpu().numpy()
    places[held] = (row_of_node * width + column)[nodes[held]]
    arrays = (packed_ids, position_ids, subtree_end, places)
    return PackedBatch(*(torch.from_numpy(array).to(ids.device) for array in arrays))


def shared_prefix_order(
    ids: Int64[Tensor, "batch tokens"],
    attention_mask: Bool[Tensor, "batch tokens"],
    states: Int64[Tensor, "batch tokens"],
) -> tuple[list[int], list[int]]:
    """Return the rows in an order in which those that share a prefix are neighbours, and for each of
    them how many tokens it adds to those before it. Their sum is the number of distinct tokens."""
    keys = _keys(ids, attention_mask, states)
    order, shared = _sorted_with_shared(keys)
    return order, [len(keys[row]) - same for row, same in zip(order, shared, strict=True)]


def _keys(
    ids: Int64[Tensor, "batch tokens"],
    attention_mask: Bool[Tensor, "batch tokens"],
    states: Int64[Tensor, "batch tokens"],
) -> list[NDArray[np.int64]]:
    """Return each row without its padding, as one integer for each pair of id and state."""
    lengths = attention_mask.sum(1).tolist()
    number_of_states = int(states.max()) + 1 if states.numel() else 1
    keys = (ids * number_of_states + states).cpu().numpy()
    return [row[:length] for row, length in zip(keys, lengths, strict=True)]


def _sorted_with_shared(keys: Sequence[NDArray[np.int64]]) -> tuple[list[int], list[int]]:
    """Return the rows in lexicographic order, and how many keys each shares with the one before."""
    # The bytes of big-endian integers compare as the integers do, and a prefix comes first.
    as_bytes = [row.astype(">i8").tobytes() for row in keys]
    order = sorted(range(len(keys)), key=as_bytes.__getitem__)
    shared = [0] * len(order)
    for number in range(1, len(order)):
        before, row = keys[order[number - 1]], keys[order[number]]
        length = min(len(before), len(row))
        differs = before[:length] != row[:length]
        shared[number] = int(differs.argmax()) if differs.any() else length
    return order, shared
