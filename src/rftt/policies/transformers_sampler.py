"""Sampling from a transformers model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from rftt.policies.cache import roomy_cache
from rftt.policies.noise import uniform
from rftt.policies.sampler import Sample, Sampler, SampleRequest
from rftt.tokens.automaton import END, TokenAutomaton


class TransformersSampler(Sampler):
    """Batched ancestral sampling with a key-value cache.

    Requests are sorted by length and cut into batches; rows that have ended leave the batch as soon
    as they make up a quarter of it. Seeds, masks and stopping are exact for each request.

    Args:
        model: a causal language model; it is used as it is, so it may be in training.
        tokenizer: its tokenizer.
        temperature: divides the logits; 0 is greedy.
        batch_size: most requests in one batch.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        temperature: float = 1.0,
        batch_size: int = 512,
    ) -> None:
        if temperature < 0:
            raise ValueError(f"temperature must be 0 or more, not {temperature}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        self.model = model
        self.tokenizer = tokenizer
        self.temperature = temperature
        self.batch_size = batch_size
        self.vocabulary = len(tokenizer)

    @property
    def size(self) -> int:  # type: ignore[override]
        return int(self.model.get_output_embeddings().weight.shape[0])

    @torch.no_grad()
    def sample(self, requests: Sequence[SampleRequest], automaton: TokenAutomaton) -> list[Sample]:
        automaton = automaton.to(self.model.device)
        by_length = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt))
        samples: dict[int, Sample] = {}
        with _evaluating(self.model):
            for start in range(0, len(by_length), self.batch_size):
                chosen = by_length[start : start + self.batch_size]
                samples |= zip(
                    chosen, self._batch([requests[i] for i in chosen], automaton), strict=True
                )
        return [samples[i] for i in range(len(requests))]

    @torch.no_grad()
    def next_log_probs(
        self, prompts: Sequence[tuple[int, ...]], states: Sequence[int], automaton: TokenAutomaton
    ) -> Float[Tensor, "prompts size"]:
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        rows = torch.empty(len(prompts), self.size)
        automaton = automaton.to(self.model.device)
        with _evaluating(self.model):
            for start in range(0, len(by_length), self.batch_size):
                chosen = by_length[start : start + self.batch_size]
                ids, mask = self._left_padded([prompts[i] for i in chosen])
                logits = self._forward(ids, mask, None).float()
                logits = logits.masked_fill(~automaton.allowed[[states[i] for i in chosen]], -torch.inf)
                rows[chosen] = logits.log_softmax(-1).cpu()
        return rows

    def _batch(self, requests: Sequence[SampleRequest], automaton: TokenAutomaton) -> list[Sample]:
        device = self.model.device
        ids, mask = self._left_padded([request.prompt for request in requests])
        seeds = torch.tensor([request.seed for request in requests], device=device)
        states = torch.tensor([request.state for request in requests], device=device)
        limits = torch.tensor([request.max_tokens for request in requests], device=device)
        longest = int(limits.max())
        drawn = torch.zeros(len(requests), longest, dtype=torch.int64, device=device)
        drawn_log_probs = torch.zeros(len(requests), longest, device=device)
        lengths = torch.zeros(len(requests), dtype=torch.int64, device=device)
        rows = torch.arange(len(requests), device=device)
        cache = roomy_cache()
        for position in range(longest):
            logits = self._forward(ids, mask, cache).float()
            log_probs = self._distribution(logits, automaton.allowed[states])
            token = self._draw(log_probs, uniform(seeds, position))
            alive = (states != END) & (lengths[rows] < limits[rows])
            drawn[rows, position] = token
            drawn_log_probs[rows, position] = log_probs.gather(1, token[:, None])[:, 0]
            lengths[rows] += alive
            states = torch.where(alive, automaton.following[states, token], END)
            alive = (states != END) & (lengths[rows] < limits[rows])
            remaining = int(alive.sum())
            if remaining == 0:
                break
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            ids = token[:, None]
            if remaining <= 0.75 * len(rows):
                kept = alive.nonzero()[:, 0]
                cache.batch_select_indices(kept)
                rows, ids, mask = rows[kept], ids[kept], mask[kept]
                seeds, states = seeds[kept], states[kept]
        return [
            Sample(tuple(drawn_ids[:length]), tuple(log_probs[:length]))
            for drawn_ids, log_probs, length in zip(
                drawn.tolist(), drawn_log_probs.tolist(), lengths.tolist(), strict=True
            )
        ]

    def _forward(
        self,
        ids: Int64[Tensor, "rows new"],
        mask: Int64[Tensor, "rows all"],
        cache: Cache | None,
    ) -> Float[Tensor, "rows size"]:
        """Logits of the next id."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _distribution(
        self, logits: Float[Tensor, "rows size"], allowed: Tensor
    ) -> Float[Tensor, "rows size"]:
        logits = logits.masked_fill(~allowed, -torch.inf)
        if self.temperature > 0:
            return (logits / self.temperature).log_softmax(-1)
        greedy = torch.full_like(logits, -torch.inf)
        return greedy.scatter(1, logits.argmax(1, keepdim=True), 0.0)

    def _draw(self, log_probs: Float[Tensor, "rows size"], noise: Tensor) -> Int64[Tensor, " rows"]:
        """The inverse of the cumulative distribution at the noise; an id of probability 0 is never
        drawn, because the cumulative sum does not rise there."""
        cumulative = log_probs.double().exp().cumsum(1)
        threshold = noise[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, threshold, right=True)[:, 0]

    def _left_padded(
        self, prompts: Sequence[tuple[int, ...]]
    ) -> tuple[Int64[Tensor, "rows width"], Int64[Tensor, "rows width"]]:
        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.int64)
        mask = torch.zeros(len(prompts), width, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        return ids.to(self.model.device), mask.to(self.model.device)


class _evaluating:  # noqa: N801 - reads as a statement
    """Dropout off inside, and the model's own mode restored after."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.was_training = self.model.training
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        self.model.train(self.was_training)
