"""What runs inside a vLLM engine: the automaton, the warp and the draw, for all rows of a step at once.

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
from jaxtyping import Bool, Float, Int64
from safetensors.torch import load_file
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor, process_dict_updates

from rftt.policies.distribution import Warp, draw, log_probabilities
from rftt.policies.noise import uniform


@frozen
class Rule:
    """What rows have in common. It crosses to the engine's process as a mapping.

    Attributes:
        automaton: path of a file with the tables ``allowed`` and ``following``.
        warp: temperature, top-p and min-p; if there is none, no id is drawn, and the whole distribution
            is left for vLLM to report.
    """

    automaton: str
    warp: tuple[float, float, float] | None = field(converter=optional(tuple))


@define
class _Row:
    """A request under way, its state after ``read`` of its ids, a list that vLLM extends."""

    rule: Rule
    state: int
    seed: int
    ids: Sequence[int]
    read: int = 0


def _row(params: Any, prompt: Sequence[int] | None, ids: Sequence[int]) -> _Row | None:
    order: Mapping[str, Any] | None = (params.extra_args or {}).get("rftt")
    return None if order is None else _Row(Rule(**order["rule"]), order["state"], order["seed"], ids)


@frozen
class _Tables:
    """An automaton where it is needed: masks on the device, transitions where rows' ids are."""

    allowed: Bool[Tensor, "states size"]
    following: Int64[np.ndarray, "states size"]
    allows_all: bool


@lru_cache(maxsize=8)
def _tables(path: str, device: torch.device) -> _Tables:
    tables = load_file(path)
    allowed = tables["allowed"]
    return _Tables(allowed.to(device), tables["following"].numpy(), bool(allowed.all()))


class AutomatonProcessor(LogitsProcessor):  # type: ignore[misc]
    """Draws for the requests whose ``extra_args`` say how, and leaves others as they are."""

    def __init__(self, vllm_config: object, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, _Row] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        process_dict_updates(self._rows, batch_update, _row)

    def apply(self, logits: Float[Tensor, "rows size"]) -> Float[Tensor, "rows size"]:
        groups: defaultdict[Rule, list[tuple[int, _Row]]] = defaultdict(list)
        for place, row in sorted(self._rows.items(), key=itemgetter(0)):
            groups[row.rule].append((place, row))
        for rule, members in groups.items():
            tables = _tables(rule.automaton, logits.device)
            _follow([row for _, row in members], tables.following)
            table = np.array([(place, row.state, row.seed, row.read) for place, row in members]).T
            places, states, _, _ = torch.from_numpy(table).to(logits.device)
            # Where rows are all there are, they need not be copied: a vocabulary is large.
            is_all = len(members) == len(logits)
            here = logits if is_all else logits[places]
            if rule.warp is None:
                here = log_probabilities(here, tables.allowed[states])
            else:
                allowed = None if tables.allows_all else tables.allowed[states]
                each = torch.arange(len(here), device=here.device)
                noise = torch.from_numpy(uniform(*table[2:])).to(here.device)
                ids, log_probs = draw(here, allowed, Warp(*rule.warp), noise, each)
                here.fill_(-torch.inf)
                here[each, ids] = log_probs.to(here.dtype)
            if is_all:
                logits = here.to(logits.dtype)
            else:
                logits[places] = here.to(logits.dtype)
        return logits


def _follow(rows: Sequence[_Row], following: Int64[np.ndarray, "states size"]) -> None:
    """Bring each row's state up to the ids that it has now."""
    while behind := [row for row in rows if row.read < len(row.ids)]:
        states, ids = np.array([(row.state, row.ids[row.read]) for row in behind]).T
        for row, state in zip(behind, following[states, ids].tolist(), strict=True):
            row.state = state
            row.read += 1
