"""The reference sampler: left padding, transformers' own cache, and batches that end together.

It draws what :class:`~rftt.samplers.transformers.sampler.TransformersSampler` draws with the same seeds.
It runs model families that that one refuses, but computes every prompt in full.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from rftt.samplers.model_state import (
    check_log_probs,
    context_length,
    end_ids,
    evaluating,
    fingerprint_parts,
    non_finite,
)
from rftt.samplers.rng import uniform
from rftt.samplers.sampler import Sample, Sampler, SampleRequest, SampleStream
from rftt.samplers.sampling import NonFiniteError, SamplingParams, draw, log_probabilities
from rftt.tokens.automaton import END, TokenAutomaton

if TYPE_CHECKING:
    from peft import PeftModel


class PlainSampler(Sampler):
    """Ancestral sampling in static batches; nothing is kept from one to the next.

    Args:
        model: a causal language model, with an adapter or without; it may be in training.
        tokenizer: its tokenizer.
        temperature, top_p, min_p: as in :class:`~rftt.samplers.sampling.SamplingParams`.
        batch_size: most requests in a batch.

    Raises:
        ValueError: if the model is recurrent, so that padding would change its state.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        batch_size: int = 64,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        # An adapter passes on what it lacks.
        self.model = cast(PreTrainedModel, model)
        base: Any = model
        if hasattr(base, "get_base_model"):
            base = base.get_base_model()
        if getattr(base, "_is_stateful", False):
            raise ValueError(
                f"{type(base).__name__} is recurrent, and padding would change its state: no sampler of "
                "this library runs it; serve it and use ServerSampler"
            )
        self._takes = inspect.signature(base.forward).parameters.keys()
        self.sampling_params = SamplingParams(temperature, top_p, min_p)
        self.tokenizer_size = len(tokenizer)
        self.max_length = context_length(self.model)
        self.end_ids = end_ids(self.model)
        self.batch_size = batch_size

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        return int(self.model.get_output_embeddings().weight.shape[0])

    def stream(self, automaton: TokenAutomaton) -> SampleStream:
        return _PlainStream(self, automaton)

    @torch.no_grad()
    def sample_batch(self, requests: Sequence[SampleRequest], automaton: TokenAutomaton) -> list[Sample]:
        """Return one sample for each request, computed as one batch."""
        ids, known = self._padded([request.prompt for request in requests])
        cache = DynamicCache(config=self.model.config.get_text_config())
        seeds = np.array([request.seed for request in requests], np.int64)
        states = torch.tensor([request.state for request in requests])
        rows = torch.arange(len(requests), device=ids.device)
        mask = automaton.to(ids.device).mask
        drawn: list[list[tuple[int, float]]] = [[] for _ in requests]
        running = list(range(len(requests)))
        position = 0
        while running:
            logits = self._logits(ids, known, cache)
            noise = torch.from_numpy(uniform(seeds, np.full_like(seeds, position))).to(ids.device)
            try:
                chosen = draw(logits, mask(states.to(ids.device)), self.sampling_params, noise, rows)
            except NonFiniteError as error:
                raise non_finite(self.model, [(requests[i], position) for i in error.draws]) from error
            new, log_probs = (t.cpu() for t in chosen)
            states, closes = automaton.next_states(states, new), automaton.closes(new)
            for row in running:
                drawn[row].append((int(new[row]), float(log_probs[row])))
            position += 1
            is_over = [
                bool(states[row] == END or (closes[row] and request.until == "step"))
                or position == request.max_tokens
                for row, request in enumerate(requests)
            ]
            running = [row for row in running if not is_over[row]]
            ids = new[:, None].to(ids.device)
            known = torch.cat([known, torch.ones_like(ids)], 1)
        return [Sample(*zip(*pairs, strict=True)) for pairs in drawn]

    @torch.no_grad()
    def next_log_probs(
        self, prompts: Sequence[tuple[int, ...]], states: Sequence[int], automaton: TokenAutomaton
    ) -> list[dict[int, float]]:
        found: list[dict[int, float]] = []
        for start in range(0, len(prompts), self.batch_size):
            part = slice(start, start + self.batch_size)
            logits = self._logits(*self._padded(prompts[part])).cpu()
            rows = log_probabilities(logits, automaton.mask(torch.tensor(states[part])))
            for row, state in zip(rows, states[part], strict=True):
                special = automaton.specials(state)
                found.append(dict(zip(special, row[special].tolist(), strict=True)))
        check_log_probs(self.model, prompts, found)
        return found

    def __fingerprint__(self) -> Mapping[str, Any]:
        return fingerprint_parts(self.model, self.sampling_params)

    def _padded(
        self, prompts: Sequence[tuple[int, ...]]
    ) -> tuple[Int64[Tensor, "rows width"], Int64[Tensor, "rows width"]]:
        """Return prompts padded on the left, and 1 where there is an id."""
        width = max(map(len, prompts))
        if not all(prompts):
            raise ValueError("a prompt is empty: a model needs one id to start from")
        ids = torch.tensor([(0,) * (width - len(prompt)) + prompt for prompt in prompts])
        known = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        return ids.to(self.model.device), known.to(self.model.device)

    def _logits(
        self,
        ids: Int64[Tensor, "rows new"],
        known: Int64[Tensor, "rows width"],
        cache: DynamicCache | None = None,
    ) -> Float[Tensor, "rows size"]:
        """Return the logits that follow the last ids."""
        positions = (known.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        # Logits of every id of a prompt take far more memory than all else.
        more = {"position_ids": positions, "logits_to_keep": 1}
        with evaluating(self.model):
            output = self.model(
                input_ids=ids,
                attention_mask=known,
                past_key_values=cache,
                use_cache=cache is not None,
                **{name: value for name, value in more.items() if name in self._takes},
            )
        logits: Tensor = output.logits[:, -1]
        return logits


class _PlainStream(SampleStream):
    """Requests that wait, computed batch after batch."""

    def __init__(self, sampler: PlainSampler, automaton: TokenAutomaton) -> None:
        self._sampler, self._automaton = sampler, automaton
        self._added = count()  # breaks ties, so that requests are never compared
        self._waiting: list[tuple[int, int, SampleRequest]] = []

    def add(self, key: int, request: SampleRequest) -> None:
        self._waiting.append((key, next(self._added), request))

    def collect(self) -> list[tuple[int, Sample]]:
        self._waiting.sort()
        batch = self._waiting[: self._sampler.batch_size]
        if not batch:
            return []
        samples = self._sampler.sample_batch([request for *_, request in batch], self._automaton)
        del self._waiting[: len(batch)]
        return [(key, sample) for (key, *_), sample in zip(batch, samples, strict=True)]
