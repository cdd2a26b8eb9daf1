"""Sampling from a transformers model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.policies.blocks import last_of_each
from rftt.policies.distribution import Warp, log_probabilities
from rftt.policies.draws import Draws
from rftt.policies.kv_slots import KVSlots
from rftt.policies.lane import Lane
from rftt.policies.packed import PackedModel
from rftt.policies.prefill import blocks_of, choose, copy_known, keep, refuse_empty, seat
from rftt.policies.prefix_pool import PrefixPool
from rftt.policies.running_batch import RunningBatch
from rftt.policies.sampler import Sampler, SampleStream
from rftt.tokens.automaton import TokenAutomaton

if TYPE_CHECKING:
    from peft import PeftModel


class TransformersSampler(Sampler):
    """Ancestral sampling with continuous batching and a store of prefixes.

    A request joins the running batch when another ends, and reads only the part of its prompt that
    was not read before, in this stream or an earlier one, in the passes that others decode in. Requests
    of the same context are computed once until they draw different ids. Seeds, masks and stopping are
    exact for each request.

    What was read is forgotten when torch has changed a parameter in place, as optimizers do and
    ``load_state_dict``; call :meth:`forget` after changing weights in another way.

    Args:
        model: a causal language model, with an adapter or without; it is used as it is, so it may be in
            training.
        tokenizer: its tokenizer.
        temperature, top_p, min_p: as in :class:`~rftt.policies.distribution.Warp`.
        batch_size: most requests in the running batch.
        prefix_bytes: memory for prefixes that may come again.

    Raises ``ValueError`` if the model's family does not take its attention from transformers'
    ``AttentionInterface``; all that are tested do.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
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
        # An adapter passes on what it lacks.
        self.model = cast(PreTrainedModel, model)
        self.tokenizer = tokenizer
        self.warp = Warp(temperature, top_p, min_p)
        self.batch_size = batch_size
        self.prefix_bytes = prefix_bytes
        self.vocabulary = len(tokenizer)
        self._prefilled = 0
        self._read_with: object = None
        self._take_memory()

    @property
    def prefilled(self) -> int:
        """How many ids of prompts the model has read so far; those that the store of prefixes held are
        not among them."""
        return self._prefilled + self._pool.missed

    @property
    def size(self) -> int:  # type: ignore[override]
        return int(self.model.get_output_embeddings().weight.shape[0])

    def stream(self, automaton: TokenAutomaton) -> SampleStream:
        """As in :class:`Sampler`. The memory is the sampler's: a new stream ends the one before."""
        pool = self._prefixes()
        draws = Draws(automaton, self.warp, self.model.device)

        def lane(size: int) -> Lane:
            if size not in self._slots:
                self._slots[size] = KVSlots(self.model)
            return Lane(self._slots[size], pool, draws)

        return RunningBatch(self._reader, draws, lane, self.batch_size, self._token_bytes)

    @torch.no_grad()
    def next_log_probs(
        self, prompts: Sequence[tuple[int, ...]], states: Sequence[int], automaton: TokenAutomaton
    ) -> Float[Tensor, "prompts size"]:
        slots, pool = self._prior_slots, self._prefixes()
        allowed = automaton.allowed.to(self.model.device)[list(states)]
        rows = torch.empty(len(prompts), self.size)
        waiting: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, prompt in enumerate(prompts):
            refuse_empty(number, prompt)
            waiting[prompt].append(number)
        with self._reader.evaluating():
            while waiting:
                part = list(islice(waiting, self.batch_size))
                slots.make_room(len(part), max(map(len, part)))
                readings = seat(choose(part, pool), range(len(part)))
                chosen = [item for reading in readings for item in reading.items]
                copy_known(readings, slots, pool)
                starts, last = np.array([(len(i.prompt) - 1, i.prompt[-1]) for i in chosen]).T
                block = last_of_each(slots, starts, last)
                logits = self._reader.read([block, *blocks_of(readings, slots)])
                keep(readings, slots, pool)
                asked = [(row, n) for row, item in enumerate(chosen) for n in waiting.pop(item.prompt)]
                read, numbers = (list(column) for column in zip(*asked, strict=True))
                rows[numbers] = log_probabilities(logits[read], allowed[numbers]).cpu()
        return rows

    def forget(self) -> None:
        """Drop all that was read, because the weights are others now."""
        self._pool.clear()
        for slots in (self._prior_slots, *self._slots.values()):
            slots.held.clear()

    def _prefixes(self) -> PrefixPool:
        if self._place != (self.model.device, self.model.dtype):
            self._prefilled += self._pool.missed
            self._take_memory()
        weights = [(id(p), p._version) for p in self.model.parameters()]
        if weights != self._read_with:
            self._read_with = weights
            self.forget()
        return self._pool

    def _take_memory(self) -> None:
        """Memory where the model is, and of its type."""
        self._place = self.model.device, self.model.dtype
        self._reader = PackedModel(self.model)
        self._slots: dict[int, KVSlots] = {}
        # Apart from the lanes': a stream may be under way.
        self._prior_slots = KVSlots(self.model)
        shape = self._prior_slots.token_shape
        self._token_bytes = prod(shape) * self.model.dtype.itemsize
        self._pool = PrefixPool(self.prefix_bytes // self._token_bytes, shape)
