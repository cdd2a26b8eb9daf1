"""transformers' own ``generate`` as a sampler, one request a call: the reference of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from rftt.samplers.model_state import fingerprint_parts
from rftt.samplers.plain import PlainSampler
from rftt.samplers.rng import uniform
from rftt.samplers.sampler import Sample, Sampler, SampleRequest, SampleStream
from rftt.samplers.sampling import SamplingParams, draw
from rftt.tokens.automaton import END, TokenAutomaton


class GenerateSampler(Sampler):
    """Computes every prompt in full, and draws what other samplers draw with the same seeds."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.sampling_params = SamplingParams()
        self.tokenizer_size = len(tokenizer)
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        self._scores = PlainSampler(model, tokenizer, batch_size=1)

    def stream(self, automaton: TokenAutomaton) -> SampleStream:
        return _Calls(self, automaton)

    def next_log_probs(
        self, prompts: Sequence[tuple[int, ...]], states: Sequence[int], automaton: TokenAutomaton
    ) -> list[dict[int, float]]:
        return self._scores.next_log_probs(prompts, states, automaton)

    def __fingerprint__(self) -> Mapping[str, Any]:
        return fingerprint_parts(self.model, self.sampling_params)

    def generate(self, request: SampleRequest, automaton: TokenAutomaton) -> Sample:
        """Return one sample. It ends at the ids that end one in the request's state, so automata of more
        states than :func:`rftt.tokens.automaton.stop_automaton` has are not for this reference."""
        device = self.model.device
        drawing = _Draw(request, automaton.to(device), self.sampling_params, device)
        ends = automaton.special_ids[automaton.following[request.state] == END].tolist()
        ids = self.model.generate(
            torch.tensor([request.prompt], device=device),
            attention_mask=torch.ones(1, len(request.prompt), dtype=torch.int64, device=device),
            do_sample=False, max_new_tokens=request.max_tokens, eos_token_id=ends, pad_token_id=0,
            logits_processor=LogitsProcessorList([drawing]),
        )  # fmt: skip
        return Sample(tuple(ids[0, len(request.prompt) :].tolist()), tuple(drawing.log_probs))


class _Draw(LogitsProcessor):
    """Leaves only the id drawn, for ``generate`` to take as the likeliest."""

    def __init__(
        self,
        request: SampleRequest,
        automaton: TokenAutomaton,
        params: SamplingParams,
        device: torch.device,
    ) -> None:
        self._allowed = automaton.mask(torch.tensor([request.state], device=device))
        self._rows = torch.tensor([0], device=device)
        self._seed, self._params = np.array([request.seed]), params
        self.log_probs: list[float] = []

    def __call__(
        self, input_ids: Int64[Tensor, "1 length"], scores: Float[Tensor, "1 size"]
    ) -> Float[Tensor, "1 size"]:
        noise = torch.from_numpy(uniform(self._seed, np.array([len(self.log_probs)])))
        noise = noise.to(scores.device)
        ids, log_probs = draw(scores, self._allowed, self._params, noise, self._rows)
        self.log_probs.append(float(log_probs))
        return torch.full_like(scores, -torch.inf).scatter(1, ids[None], 0.0)


class _Calls(SampleStream):
    def __init__(self, sampler: GenerateSampler, automaton: TokenAutomaton) -> None:
        self._sampler, self._automaton = sampler, automaton
        self._waiting: dict[int, SampleRequest] = {}

    def add(self, key: int, request: SampleRequest) -> None:
        self._waiting[key] = request

    def collect(self) -> list[tuple[int, Sample]]:
        if not self._waiting:
            return []
        key = min(self._waiting)
        return [(key, self._sampler.generate(self._waiting.pop(key), self._automaton))]
