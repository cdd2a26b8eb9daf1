"""Sampling with vLLM's engine."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.fingerprint import fingerprint
from rftt.samplers.model_state import end_ids
from rftt.samplers.sampler import Sample, Sampler, SampleRequest, SampleStream
from rftt.samplers.sampling import SamplingParams
from rftt.samplers.vllm.engine import Engine
from rftt.samplers.vllm.weights import checkpoint_fingerprint, named_weights, reload
from rftt.tokens.automaton import TokenAutomaton


class VLLMSampler(Sampler):
    """Ancestral sampling in vLLM's offline engine: paged attention, continuous batching, a prefix cache.

    Masks, sampling parameters and draws are computed in the engine's batch by
    :class:`~rftt.samplers.vllm.processor.AutomatonProcessor`, with the functions and the random numbers
    of :class:`~rftt.samplers.transformers.sampler.TransformersSampler`: a request with the same seed
    gets the same ids from both, but where rounding decides. A solution is one request, under a grammar
    too. A sample also ends where the model's longest context (``max_model_len``) does.

    Weights do not follow a model that is being tuned: call :meth:`update` after each step.

    vLLM's prefix cache holds full blocks: a small ``block_size`` recomputes less of short prompts (on
    a CPU it is 128 by default, and must be a multiple of 32).

    vLLM's settings in the environment hold. With ``VLLM_ENABLE_V1_MULTIPROCESSING=0`` the engine runs in
    this process, and updates need no copy of the weights; but it shares what is global in it: vLLM seeds
    the generators of torch, numpy and Python when it starts, and an engine that goes takes others of the
    process with it. The engine's processes must see this machine's files: automata go through them, and
    so do weights to other processes.

    Args:
        model: a folder, a name that vLLM can find, or a model in memory, which is copied.
        tokenizer: its tokenizer.
        temperature, top_p, min_p: as in :class:`~rftt.samplers.sampling.SamplingParams`.
        **engine: of ``vllm.LLM``: ``tensor_parallel_size``, ``gpu_memory_utilization``,
            ``max_model_len``, ``dtype``, ``enforce_eager``, ``block_size``, ``max_num_seqs`` ...

    Attributes:
        llm: the ``vllm.LLM`` that does the work.

    Raises:
        ImportError: if vLLM is not installed.
    """

    def __init__(
        self,
        model: Path | str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        **engine: Any,
    ) -> None:
        self.sampling_params = SamplingParams(temperature, top_p, min_p)
        self.tokenizer = tokenizer
        self.tokenizer_size = len(tokenizer)
        if isinstance(model, PreTrainedModel):
            self._weights = fingerprint(dict(named_weights(model)))
        else:
            self._weights = checkpoint_fingerprint(model)
        self._engine = Engine(model, tokenizer, engine)
        self.llm = self._engine.llm
        self.vocab_size = self._engine.core.model_config.get_vocab_size()
        self.max_length = self._engine.core.model_config.max_model_len
        # Of a model in memory, vLLM read a copy whose files are gone.
        self.end_ids = end_ids(model) if isinstance(model, PreTrainedModel) else self._engine.end_ids()

    def __fingerprint__(self) -> Mapping[str, Any]:
        return {"weights": self._weights, "sampling_params": self.sampling_params}

    @property
    def prefilled(self) -> int:
        """Number of prompt ids that the engine has computed so far; those that its prefix cache held are
        not among them."""
        return self._engine.prefilled

    def stream(self, automaton: TokenAutomaton) -> SampleStream:
        self._engine.abort_all()
        return _VLLMStream(self._engine, automaton, self.sampling_params)

    def next_log_probs(
        self, prompts: Sequence[tuple[int, ...]], states: Sequence[int], automaton: TokenAutomaton
    ) -> list[dict[int, float]]:
        found: list[dict[int, float]] = [{} for _ in prompts]
        waiting: dict[str, int] = {}
        for number, (prompt, state) in enumerate(zip(prompts, states, strict=True)):
            if special := automaton.specials(state):
                request = SampleRequest(prompt, 0, state, 1)
                name = self._engine.add(request, automaton, None, top_log_probs=len(special))
                waiting[name] = number
        while waiting:
            for name, output in self._engine.collect(waiting).items():
                number = waiting.pop(name)
                reported = output.outputs[0].logprobs
                log_probs = dict(zip(reported.token_ids, reported.logprobs, strict=True))
                found[number] = {i: log_probs[i] for i in automaton.specials(states[number])}
        return found

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load other weights in place, end the stream in flight and empty the prefix cache.

        Args:
            weights: all of the model's, under the names of its checkpoint, ``lm_head.weight`` also where
                it is tied.
        """
        given = dict(weights)
        self._engine.abort_all()
        reload(self._engine.core, given)
        self._weights = fingerprint(given)
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache: its requests are still in flight")

    def update(self, model: torch.nn.Module) -> None:
        """Load the weights that a transformers model has now; one with an adapter of PEFT is copied and
        merged."""
        self.load_weights(named_weights(model).items())

    def sleep(self, level: int = 1) -> None:
        """Give the device's memory back, as ``vllm.LLM.sleep`` does: start with
        ``enable_sleep_mode=True``. Level 1 keeps the weights on the host; after level 2 they must be
        given again.

        Raises:
            NotImplementedError: on a CPU, where vLLM has no sleep mode.
        """
        if self._engine.core.vllm_config.device_config.device_type == "cpu":
            raise NotImplementedError("vLLM has no sleep mode on a CPU")
        self._engine.abort_all()
        self.llm.sleep(level=level)

    def wake(self, tags: Collection[str] | None = None) -> None:
        """Undo :meth:`sleep`, as ``vllm.LLM.wake_up`` does."""
        self.llm.wake_up(None if tags is None else list(tags))


class _VLLMStream(SampleStream):
    """Sample requests in flight in an engine."""

    def __init__(self, engine: Engine, automaton: TokenAutomaton, params: SamplingParams) -> None:
        self._engine, self._automaton, self._params = engine, automaton, params
        self._generation = engine.generation
        self._keys: dict[str, int] = {}

    def add(self, key: int, request: SampleRequest) -> None:
        self._refuse_if_ended()
        name = self._engine.add(request, self._automaton, self._params, priority=key)
        self._keys[name] = key

    def collect(self) -> list[tuple[int, Sample]]:
        if not self._keys:
            return []
        self._refuse_if_ended()
        samples = []
        for name, output in self._engine.collect(self._keys).items():
            (completion,) = output.outputs
            reported = completion.logprobs
            # At each position the id drawn is reported first.
            log_probs = tuple(reported.logprobs[first] for first in reported.start_indices)
            samples.append((self._keys.pop(name), Sample(tuple(completion.token_ids), log_probs)))
        return samples

    def _refuse_if_ended(self) -> None:
        if self._generation != self._engine.generation:
            raise RuntimeError("this stream was ended by a newer stream or newer weights: open another")
