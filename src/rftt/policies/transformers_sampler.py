"""Sampling from a transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.policies.distribution import Warp
from rftt.policies.kv_slots import KVSlots
from rftt.policies.lane import Lane
from rftt.policies.prefill import read_prompts
from rftt.policies.prefix_pool import PrefixPool
from rftt.policies.running_batch import RunningBatch, evaluating
from rftt.policies.sampler import Sampler, SampleStream
from rftt.tokens.automaton import TokenAutomaton

_ROWS_IN_A_LANE: Final = 256
"""A small model is bound by its attention from about here; a large one has smaller batches."""


class TransformersSampler(Sampler):
    """Ancestral sampling with continuous batching and a store of prefixes.

    A request joins the running batch when another ends, and reads only the part of its prompt that
    was not read before, in this stream or an earlier one. Seeds, masks and stopping are exact for
    each request.

    What was read is forgotten when torch has changed a parameter in place, as optimizers do and
    ``load_state_dict``; call :meth:`forget` after changing weights in another way.

    Args:
        model: a causal language model; it is used as it is, so it may be in training.
        tokenizer: its tokenizer.
        temperature, top_p, min_p: as in :class:`~rftt.policies.distribution.Warp`.
        batch_size: most requests in the running batch.
        prefix_bytes: memory for prefixes that may come again.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        batch_size: int = 256,
        prefix_bytes: int = 1 << 30,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        self.model = model
        self.tokenizer = tokenizer
        self.warp = Warp(temperature, top_p, min_p)
        self.batch_size = batch_size
        self.prefix_bytes = prefix_bytes
        self.vocabulary = len(tokenizer)
        self._slots: list[KVSlots] = []
        # Apart from the lanes': a stream may be under way.
        self._prior_slots = KVSlots(model)
        kept = prefix_bytes // (prod(self._prior_slots.token_shape) * model.dtype.itemsize)
        self._pool = PrefixPool(kept, self._prior_slots.token_shape)
        self._read_with: object = None

    @property
    def size(self) -> int:  # type: ignore[override]
        return int(self.model.get_output_embeddings().weight.shape[0])

    def stream(self, automaton: TokenAutomaton) -> SampleStream:
        """As in :class:`Sampler`. The memory is the sampler's: a new stream ends the one before."""
        automaton = automaton.to(self.model.device)
        pool = self._prefixes()
        starts = range(0, self.batch_size, _ROWS_IN_A_LANE)
        self._slots += [KVSlots(self.model) for _ in starts[len(self._slots) :]]
        lanes = [
            Lane(slots, pool, automaton, self.warp, min(_ROWS_IN_A_LANE, self.batch_size - start))
            for slots, start in zip(self._slots, starts, strict=True)
        ]
        return RunningBatch(self.model, lanes)

    @torch.no_grad()
    def next_log_probs(
        self, prompts: Sequence[tuple[int, ...]], states: Sequence[int], automaton: TokenAutomaton
    ) -> Float[Tensor, "prompts size"]:
        slots, pool = self._prior_slots, self._prefixes()
        allowed = automaton.allowed.to(self.model.device)[list(states)]
        rows = torch.empty(len(prompts), self.size)
        with evaluating(self.model):
            for start in range(0, len(prompts), self.batch_size):
                part = prompts[start : start + self.batch_size]
                for read in read_prompts(part, slots, pool, 0):
                    chosen = [start + number for number in read.numbers]
                    logits = read.logits.float().masked_fill(~allowed[chosen], -torch.inf)
                    rows[chosen] = logits.log_softmax(-1).cpu()
        return rows

    def forget(self) -> None:
        """Drop all that was read, because the weights are others now."""
        self._pool.clear()

    def _prefixes(self) -> PrefixPool:
        weights = [(id(p), p._version) for p in self.model.parameters()]
        if weights != self._read_with:
            self._read_with = weights
            self.forget()
        return self._pool
