"""What runs inside a vLLM engine: the automaton, the warp and the draw, for all rows of a step at once.

vLLM calls a logits processor in the middle of its sampler and then takes the likeliest id, because every
request is greedy to it. So the processor draws: it leaves minus infinity everywhere but at the id drawn,
and there the log-probability it was drawn with, which vLLM reports (``logprobs_mode`` is
``processed_logits``).

It draws for a request's companions too (:mod:`rftt.policies.vllm_companions`), at every position, and
keeps no account of who has parted: vLLM throws draws away, when it reads a prompt in pieces, and takes
rows out and in again.

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
from rftt.policies.vllm_companions import mark


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
    """A request under way, its state after ``read`` of its ids, a list that vLLM extends.

    Attributes:
        seeds: the request's own, and those of its companions.
        start: how many ids were drawn before it began.
    """

    rule: Rule
    state: int
    seeds: Sequence[int]
    start: int
    ids: Sequence[int]
    read: int = 0

    def follow(self, following: Int64[np.ndarray, "states size"]) -> None:
        """Bring the state up to the ids that there are now."""
        for token in self.ids[self.read :]:
            self.state = following.item(self.state, token)
        self.read = len(self.ids)


def _row(params: Any, prompt: Sequence[int] | None, ids: Sequence[int]) -> _Row | None:
    order: Mapping[str, Any] | None = (params.extra_args or {}).get("rftt")
    if order is None:
        return None
    return _Row(Rule(**order["rule"]), order["state"], order["seeds"], order["start"], ids)


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
            rows = [row for _, row in members]
            tables = _tables(rule.automaton, logits.device)
            for row in rows:
                row.follow(tables.following)
            table = [[place for place, _ in members], [row.state for row in rows]]
            places, states = torch.tensor(table, device=logits.device)
            # Where rows are all there are, they need not be copied: a vocabulary is large.
            is_all = len(members) == len(logits)
            here = logits if is_all else logits[places]
            if rule.warp is None:
                here = log_probabilities(here, tables.allowed[states])
            else:
                allowed = None if tables.allows_all else tables.allowed[states]
                _leave_drawn(here, allowed, Warp(*rule.warp), rows)
            if is_all:
                logits = here.to(logits.dtype)
            else:
                logits[places] = here.to(logits.dtype)
        return logits


def _leave_drawn(
    logits: Float[Tensor, "rows size"],
    allowed: Bool[Tensor, "rows size"] | None,
    warp: Warp,
    rows: Sequence[_Row],
) -> None:
    """Draw for rows and their companions, and overwrite the logits with what came of it."""
    counts = np.array([len(row.seeds) for row in rows])
    owners = np.arange(len(rows)).repeat(counts)
    firsts = counts.cumsum() - counts
    seeds = np.array([seed for row in rows for seed in row.seeds])
    positions = np.array([row.start + row.read for row in rows])
    noise = torch.from_numpy(uniform(seeds, positions[owners])).to(logits.device)
    of, first = (torch.from_numpy(column).to(logits.device) for column in (owners, firsts))
    ids, log_probs = draw(logits, allowed, warp, noise, of)
    logits.fill_(-torch.inf)
    if len(seeds) > len(rows):
        apart = (ids != ids[first][of]).nonzero()[:, 0]
        owner = of[apart]
        mark(logits, owner, ids[apart], apart - first[owner] - 1)
    logits[of[first], ids[first]] = log_probs[first].to(logits.dtype)
