"""How a sampler's memory is shared out, and what sequences and forward passes take of it.

One share is the prefix cache's, one that of the prompts that a pass computes, and one the running
batch's: keys and values of its sequences, and what a pass computes for their last ids. Figures are of
the worst case: logits once more in single precision and once more padded, most activations at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import torch
from attrs import evolve, field, frozen
from transformers import PreTrainedModel

from rftt.samplers.transformers.kv_cache import KVCache

WORKSPACE_BYTES: Final = 32 << 20
"""Most memory of what does not grow with the batch: intermediate results of drawing, which are computed
in chunks, and pieces of memory that were freed and not given back."""
_UNKNOWN_FREE_BYTES: Final = 4 << 30
_MOST_PREFIX_BYTES: Final = 1 << 29
_DRAW_BYTES: Final = 64
"""For one draw and each block of ids, of which there are about as many as ids in a block."""


def default_memory_bytes(device: torch.device) -> int:
    """Return how much memory sampling may take where nobody says: half of what is free on the model's
    device. Large batches are fast, and the other half is for what else is done with the model."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return _free_bytes() // 2


def _free_bytes() -> int:
    """Return the memory that the system can give this process, as it says; a few GiB if it does not."""
    free = [_UNKNOWN_FREE_BYTES]
    with suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")] or free
    # A container's own limit, which is "max" where it has none. Files in memory give way.
    with suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = dict(map(str.split, Path("/sys/fs/cgroup/memory.stat").read_text().splitlines()))
        free.append(limit - int(used["anon"]))
    return max(0, min(free))


@frozen
class ModelSizes:
    """Memory of what a model computes, in bytes.

    Attributes:
        id_bytes: activations of one id.
        logits_bytes: logits of one sequence and all that is made of them.
        draw_bytes: intermediate results of one draw.
        pair_bytes: mask and scores of one id and one column.
        column_bytes: a copy of one layer's keys and values of one column.
    """

    id_bytes: int
    logits_bytes: int
    draw_bytes: int
    pair_bytes: int
    column_bytes: int

    @staticmethod
    def of(model: PreTrainedModel, kv_cache: KVCache) -> ModelSizes:
        """Estimate sizes from a model's config and the shape of its keys and values."""
        config = model.config.get_text_config()
        sides, kv_heads, dimensions = kv_cache.token_shape
        hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
        inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
        vocabulary = int(model.get_output_embeddings().weight.shape[0])
        # The eager kernel holds scores of all heads, before the softmax and after it.
        scores = 3 * 4 * heads if config._attn_implementation == "eager" else 0
        return ModelSizes(
            id_bytes=4 * (8 * hidden + 4 * inner + 8 * heads * dimensions),
            logits_bytes=12 * vocabulary,
            draw_bytes=_DRAW_BYTES * math.isqrt(vocabulary),
            pair_bytes=6 + 4 * heads // kv_heads + scores,
            column_bytes=2 * kv_cache.token_bytes // sides,
        )

    def prefill(self, rows: int, new: int, width: int) -> int:
        """Return the memory of a segment of new ids of prompts: so many for each of its sequences, of
        which the longest has so many columns."""
        return rows * (new * (self.id_bytes + width * self.pair_bytes) + width * self.column_bytes)


@frozen
class MemoryPlan:
    """Shares of a sampler's memory.

    Attributes:
        memory_bytes: all of it.
        chosen_prefix_bytes: the prefix cache's share; ``None`` for a quarter, 512 MiB at most.
        sizes: what the model computes.
        kv_bytes: returns the memory of the keys and values of sequences of some lengths.
    """

    memory_bytes: int
    chosen_prefix_bytes: int | None
    sizes: ModelSizes
    kv_bytes: Callable[[Sequence[int]], int] = field(eq=False)

    @property
    def prefix_bytes(self) -> int:
        """Return the prefix cache's share."""
        if self.chosen_prefix_bytes is None:
            return min(_MOST_PREFIX_BYTES, self.memory_bytes // 4)
        return self.chosen_prefix_bytes

    @property
    def prefill_bytes(self) -> int:
        """Return the share of the prompts that one pass computes."""
        return max(0, self._shared // 6)

    @property
    def running_bytes(self) -> int:
        """Return the share of the running batch."""
        return max(0, self._shared - self.prefill_bytes)

    @property
    def _shared(self) -> int:
        return self.memory_bytes - self.prefix_bytes - WORKSPACE_BYTES

    def working_bytes(self, sequences: int, draws: int, longest: int) -> int:
        """Return the memory of one pass over the last ids of sequences."""
        mask = 8 * longest
        each = self.sizes.id_bytes + self.sizes.logits_bytes + mask
        return sequences * each + draws * self.sizes.draw_bytes

    def fits(self, lengths: Sequence[int], draws: int) -> bool:
        """Return whether sequences of these lengths can run together."""
        working = self.working_bytes(len(lengths), draws, max(lengths, default=0))
        return self.kv_bytes(lengths) + working <= self.running_bytes

    def prefill_ids(self, width: int) -> int:
        """Return the most ids of one prompt that a pass computes, where its last has so many columns."""
        sizes = self.sizes
        left = self.prefill_bytes - width * sizes.column_bytes
        return max(1, left // (sizes.id_bytes + width * sizes.pair_bytes))

    def holds(self, length: int) -> bool:
        """Return whether one sequence can grow to a length."""
        return self.fits([length], 1) and self.sizes.prefill(1, 1, length) <= self.prefill_bytes

    def check(self, prompt: int, new: int) -> None:
        """Raise ``ValueError``, saying how much memory it takes, if a sequence is too long to run even
        alone.

        Args:
            prompt: number of its prompt's ids.
            new: most ids after it.
        """
        if self.holds(prompt + new):
            return
        enough = self
        while not enough.holds(prompt + new):
            enough = evolve(enough, memory_bytes=enough.memory_bytes * 9 // 8 + (1 << 20))
        raise ValueError(
            f"memory_bytes={self.memory_bytes} cannot hold one sequence: a prompt of {prompt} ids and "
            f"up to {new} more need about {enough.memory_bytes}, {enough.prefix_bytes} of them for the "
            "prefix cache; give that much, or shorten prompts or max_tokens"
        )
