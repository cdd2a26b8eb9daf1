"""Sampling with vLLM's engine."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.policies import vllm_weights
from rftt.policies.distribution import Warp
from rftt.policies.sampler import Sampler, SampleRequest, SampleStream
from rftt.policies.vllm_engine import Engine
from rftt.policies.vllm_stream import VLLMStream
from rftt.tokens.automaton import TokenAutomaton


class VLLMSampler(Sampler):
    """Ancestral sampling in vLLM's offline engine: paged attention, continuous batching, a prefix cache.

    Masks, warp and draws are computed in the engine's batch by
    :class:`~rftt.policies.vllm_processor.AutomatonProcessor`, with the functions and the noise of
    :class:`~rftt.policies.transformers_sampler.TransformersSampler`: a request with the same seed gets
    the same ids from both, but where rounding decides. A whole solution is one generation, under a
    grammar too. A sample also ends where the model's longest context (``max_model_len``) does.
    Requests of the same context are computed once until they draw different ids.

    Weights do not follow a model that is being tuned: call :meth:`update` after each step.

    Prefixes are found again in whole blocks: a small ``block_size`` recomputes less of short prompts (on
    a CPU it is 128 by default, and must be a multiple of 32).

    vLLM's settings in the environment hold. With ``VLLM_ENABLE_V1_MULTIPROCESSING=0`` the engine runs in
    this process, and updates need no copy of the weights; but it shares what is global in it: vLLM seeds
    the generators of torch, numpy and Python when it starts, and an engine that goes takes others of the
    process with it. The engine's processes must see this machine's files: automata go through them, and
    so do weights to other processes.

    Args:
        model: a folder, a name that vLLM can find, or a model in memory, which is copied.
        tokenizer: its tokenizer.
        temperature, top_p, min_p: as in :class:`~rftt.policies.distribution.Warp`.
        **engine: of ``vllm.LLM``: ``tensor_parallel_size``, ``gpu_memory_utilization``,
            ``max_model_len``, ``dtype``, ``enforce_eager``, ``block_size``, ``max_num_seqs`` ...

    Attributes:
        llm: the ``vllm.LLM`` that does the work.

    Raises ``ImportError`` where vLLM is not installed.
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
        self.warp = Warp(temperature, top_p, min_p)
        self.tokenizer = tokenizer
        self.vocabulary = len(tokenizer)
        self._engine = Engine(model, tokenizer, engine)
        self.llm = self._engine.llm
        self.size = self._engine.core.model_config.get_vocab_size()

    @property
    def prefilled(self) -> int:
        """How many ids of prompts the engine has computed so far; those that its prefix cache held are
        not among them."""
        return self._engine.prefilled

    def stream(self, automaton: TokenAutomaton) -> SampleStream:
        """As in :class:`Sampler`. The engine is the sampler's: a new stream ends the one before."""
        self._engine.end_all()
        return VLLMStream(self._engine, automaton, self.warp)

    def next_log_probs(
        self, prompts: Sequence[tuple[int, ...]], states: Sequence[int], automaton: TokenAutomaton
    ) -> Float[Tensor, "prompts size"]:
        choices = automaton.allowed.sum(1).tolist()
        rows = torch.full((len(prompts), self.size), -torch.inf)
        waiting = {
            self._engine.begin(
                SampleRequest(prompt, 0, state, 1), automaton, None, report=choices[state]
            ): row
            for prompt, state, row in zip(prompts, states, rows, strict=True)
        }
        while waiting:
            for name, output in self._engine.news(waiting).items():
                reported = output.outputs[0].logprobs
                waiting.pop(name)[reported.token_ids] = torch.tensor(reported.logprobs)
        return rows

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take on other weights in place, and forget what was read with those before.

        Args:
            weights: all of the model's, under the names of its checkpoint, ``lm_head.weight`` also where
                it is tied.
        """
        self._engine.end_all()
        vllm_weights.reload(self._engine.core, weights)
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not drop its prefix cache: its requests are still under way")

    def update(self, model: torch.nn.Module) -> None:
        """Take on the weights that a transformers model has now; one with an adapter of PEFT is copied
        and merged."""
        self.load_weights(vllm_weights.named_weights(model).items())

    def sleep(self, level: int = 1) -> None:
        """Give the device's memory back, as ``vllm.LLM.sleep`` does: start with
        ``enable_sleep_mode=True``. Level 1 keeps the weights on the host; after level 2 they must be
        given again. Raises ``NotImplementedError`` on a CPU, where vLLM has no sleep mode."""
        if self._engine.core.vllm_config.device_config.device_type == "cpu":
            raise NotImplementedError("vLLM has no sleep mode on a CPU")
        self._engine.end_all()
        self.llm.sleep(level=level)

    def wake(self, tags: Collection[str] | None = None) -> None:
        """Undo :meth:`sleep`, as ``vllm.LLM.wake_up`` does."""
        self.llm.wake_up(None if tags is None else list(tags))
