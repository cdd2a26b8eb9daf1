"""Logits processor that draws inside a vLLM engine: automaton, sampling parameters and draw for a batch.

vLLM calls a logits processor in the middle of its sampler and then takes the likeliest id, because every
request is greedy to it. So the processor draws: it leaves minus infinity everywhere but at the id drawn,
and there the log-probability it was drawn with, which vLLM reports (``logprobs_mode`` is
``processed_logits``).

Interface: ``vllm.v1.sample.logits_processor`` of vLLM's V1 model runner, see
https://docs.vllm.ai/en/stable/features/custom_logitsprocs/.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from attrs import define, field, frozen
from attrs.converters import optional
from jaxtyping import Float, Int64
from safetensors.torch import load_file
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor, process_dict_updates

from rftt.samplers.rng import uniform
from rftt.samplers.sampling import SamplingParams, draw, log_probabilities
from rftt.tokens.automaton import TokenAutomaton


@frozen
class Rule:
    """What requests of one stream have in common. It crosses to the engine's process as a mapping.

    Attributes:
        automaton: path of a file with the automaton's tables.
        params: temperature, top-p and min-p; ``None`` draws nothing and leaves the log-probabilities of
            special ids for vLLM to report.
    """

    automaton: str
    params: tuple[float, float, float] | None = field(converter=optional(tuple))


@define
class _Request:
    """A request in the engine's batch.

    Attributes:
        rule: its automaton and its params.
        state: the automaton's state after ``read`` of its sampled ids.
        seed: decides every draw.
        ids: its sampled ids, a list that vLLM extends.
    """

    rule: Rule
    state: int
    seed: int
    ids: Sequence[int]
    read: int = 0


def _request(params: Any, prompt: Sequence[int] | None, ids: Sequence[int]) -> _Request | None:
    order: Mapping[str, Any] | None = (params.extra_args or {}).get("rftt")
    if order is None:
        return None
    return _Request(Rule(**order["rule"]), order["state"], order["seed"], ids)


class AutomatonProcessor(LogitsProcessor):  # type: ignore[misc]
    """Draws for the requests whose ``extra_args`` say how, and leaves others as they are."""

    def __init__(self, vllm_config: object, device: torch.device, is_pin_memory: bool) -> None:
        self._requests: dict[int, _Request] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        process_dict_updates(self._requests, batch_update, _request)

    def apply(self, logits: Float[Tensor, "rows size"]) -> Float[Tensor, "rows size"]:
        groups: defaultdict[Rule, list[tuple[int, _Request]]] = defaultdict(list)
        for row, request in sorted(self._requests.items(), key=itemgetter(0)):
            groups[request.rule].append((row, request))
        for rule, members in groups.items():
            requests = [request for _, request in members]
            rows = torch.tensor([row for row, _ in members], device=logits.device)
            _follow(requests, _automaton(rule.automaton, torch.device("cpu")))
            automaton = _automaton(rule.automaton, logits.device)
            states = torch.tensor([request.state for request in requests], device=logits.device)
            if rule.params is None:
                processed = _special_log_probs(logits[rows], states, automaton)
            else:
                processed = _draw(
                    logits[rows], states, automaton, requests, SamplingParams(*rule.params)
                )
            logits[rows] = processed.to(logits.dtype)
        return logits


@lru_cache(maxsize=8)
def _automaton(path: str, device: torch.device) -> TokenAutomaton:
    return TokenAutomaton(**load_file(path), between={}, within={}, choices={}).to(device)


def _follow(requests: Sequence[_Request], automaton: TokenAutomaton) -> None:
    """Bring states up to the ids that were sampled since. More than one is new where vLLM puts a request
    back into the batch."""
    while behind := [request for request in requests if request.read < len(request.ids)]:
        states = torch.tensor([request.state for request in behind])
        ids = torch.tensor([request.ids[request.read] for request in behind])
        for request, state in zip(behind, automaton.next_states(states, ids).tolist(), strict=True):
            request.state = state
            request.read += 1


def _draw(
    logits: Float[Tensor, "rows size"],
    states: Int64[Tensor, " rows"],
    automaton: TokenAutomaton,
    requests: Sequence[_Request],
    params: SamplingParams,
) -> Float[Tensor, "rows size"]:
    """Draw an id for each row, and return logits that leave only the ids drawn."""
    seeds = np.array([request.seed for request in requests])
    positions = np.array([request.read for request in requests])
    noise = torch.from_numpy(uniform(seeds, positions)).to(logits.device)
    rows = torch.arange(len(requests), device=logits.device)
    ids, log_probs = draw(logits, automaton.mask(states), params, noise, rows)
    drawn = torch.full_like(logits, -torch.inf)
    drawn[rows, ids] = log_probs.to(logits.dtype)
    return drawn


def _special_log_probs(
    logits: Float[Tensor, "rows size"], states: Int64[Tensor, " rows"], automaton: TokenAutomaton
) -> Float[Tensor, "rows size"]:
    """Return log-probabilities among all ids that are allowed, but only those of special ids."""
    log_probs = log_probabilities(logits, automaton.mask(states))
    special = torch.full_like(log_probs, -torch.inf)
    special[:, automaton.special_ids] = log_probs[:, automaton.special_ids]
    return special
