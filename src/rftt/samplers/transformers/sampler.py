"""Sampling from a transformers model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.samplers.model_state import (
    WeightsWatch,
    check_log_probs,
    context_length,
    end_ids,
    fingerprint_parts,
)
from rftt.samplers.sampler import Sampler, SampleStream
from rftt.samplers.sampling import SamplingParams
from rftt.samplers.transformers.batch import ScoreRequest
from rftt.samplers.transformers.kv_cache import KVCache
from rftt.samplers.transformers.memory import MemoryPlan, ModelSizes, default_memory_bytes
from rftt.samplers.transformers.model_runner import ModelRunner
from rftt.samplers.transformers.prefix_cache import ENTRY_BYTES, PrefixCache
from rftt.samplers.transformers.scheduler import Scheduler
from rftt.tokens.automaton import TokenAutomaton

if TYPE_CHECKING:
    from peft import PeftModel


class TransformersSampler(Sampler):
    """Ancestral sampling with continuous batching and a prefix cache.

    A request joins the running batch when another ends. Only the part of its prompt is computed that was
    not computed before, in this stream or an earlier one, in the passes that others decode in. Requests
    of the same context are computed once until they draw different ids. Seeds, masks and stopping are
    exact for each request.

    The prefix cache is cleared when torch has changed a parameter in place, as optimizers and
    ``load_state_dict`` do, and when an adapter was switched, disabled or merged; call :meth:`forget`
    after changing weights in another way.

    Args:
        model: a causal language model, with an adapter or without; it is used as it is, so it may be in
            training.
        tokenizer: its tokenizer.
        temperature, top_p, min_p: as in :class:`~rftt.samplers.sampling.SamplingParams`.
        batch_size: most requests in the running batch.
        memory_bytes: most memory that sampling takes beside the model's weights: keys and values of the
            running batch and of the prefix cache, and what forward passes and drawing compute. Where
            ``batch_size`` requests would take more, fewer run at a time; samples are the same. By
            default half of what is free where the model is.
        prefix_bytes: the prefix cache's share of it, by default a quarter, 512 MiB at most. It should
            hold the trees that are grown at a time; a completion of many steps goes on in its slot
            without it.

    Raises:
        ValueError: if the model's family does not take its attention from transformers'
            ``AttentionInterface``: :class:`~rftt.samplers.plain.PlainSampler` samples from all; if
            ``memory_bytes`` cannot hold one sequence, here that of one id, and later the longest that a
            request asks for.
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
        memory_bytes: int | None = None,
        prefix_bytes: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        # An adapter passes on what it lacks.
        self.model = cast(PreTrainedModel, model)
        self.tokenizer = tokenizer
        self.sampling_params = SamplingParams(temperature, top_p, min_p)
        self.batch_size = batch_size
        self.memory_bytes = memory_bytes
        self.prefix_bytes = prefix_bytes
        self.tokenizer_size = len(tokenizer)
        self.max_length = context_length(self.model)
        self.end_ids = end_ids(self.model)
        self._prefilled = 0
        self._version: object = None
        self._runner = ModelRunner(self.model)
        self._scheduler: Scheduler | None = None
        self._allocate()

    @property
    def prefilled(self) -> int:
        """Return the number of prompt ids computed so far; what the prefix cache knew is not counted."""
        return self._prefilled + self._prefixes.missed

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        return int(self.model.get_output_embeddings().weight.shape[0])

    def stream(self, automaton: TokenAutomaton) -> SampleStream:
        return self._open(automaton)

    def next_log_probs(
        self, prompts: Sequence[tuple[int, ...]], states: Sequence[int], automaton: TokenAutomaton
    ) -> list[dict[int, float]]:
        for number, prompt in enumerate(prompts):
            if not prompt:
                raise ValueError(f"prompt {number} is empty: a model needs one id to start from")
        pairs = zip(prompts, states, strict=True)
        requests = [ScoreRequest(prompt, state, automaton) for prompt, state in pairs]
        scheduler = self._scheduler
        if scheduler is None or not scheduler.is_current:
            scheduler = self._open(automaton)
        scheduler.score(requests)
        found = [request.log_probs or {} for request in requests]
        check_log_probs(self.model, prompts, found)
        return found

    def update(self, model: torch.nn.Module) -> None:
        """Copy the weights of a model of the same shape, in this one's precision; of one with an adapter
        into one with the same adapter."""
        if model is not self.model:
            self.model.load_state_dict(model.state_dict())

    def forget(self) -> None:
        """Clear the prefix cache and end the stream in flight, because the weights are others now."""
        self._prefixes.clear()
        if self._scheduler is not None:
            self._scheduler.end()
            self._scheduler = None

    def __fingerprint__(self) -> Mapping[str, Any]:
        return fingerprint_parts(self.model, self.sampling_params)

    def _open(self, automaton: TokenAutomaton) -> Scheduler:
        watch = WeightsWatch.of(self.model)
        if watch.version() != self._version:
            self._version = watch.version()
            self.forget()
            if (self._kv.store.device, self._kv.store.dtype) != (self.model.device, self.model.dtype):
                self._prefilled += self._prefixes.missed
                self._allocate()
        if self._scheduler is not None:
            self._scheduler.end()
        self._scheduler = Scheduler(
            self._runner, self._kv, self._prefixes, automaton, self.sampling_params, self.batch_size,
            self._plan, watch.version,
        )  # fmt: skip
        return self._scheduler

    def _allocate(self) -> None:
        """Make empty caches where the model is, and of its type."""
        self._kv = KVCache(self.model)
        memory_bytes = self.memory_bytes
        if memory_bytes is None:
            memory_bytes = default_memory_bytes(self.model.device)
        sizes = ModelSizes.of(self.model, self._kv)
        self._plan = MemoryPlan(memory_bytes, self.prefix_bytes, sizes, self._kv.memory_bytes)
        self._plan.check(1, 0)
        self._prefixes = PrefixCache(self._plan.prefix_bytes // (self._kv.token_bytes + ENTRY_BYTES))
