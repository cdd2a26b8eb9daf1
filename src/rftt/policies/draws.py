"""What has been drawn for the requests under way, and drawing more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rftt.policies.distribution import Warp, draw
from rftt.policies.noise import uniform
from rftt.policies.sampler import Sample, SampleRequest
from rftt.tokens.automaton import END, TokenAutomaton

_ROOM: Final = 16
"""Fewest ids of a request that there is room for: all are copied whenever requests come or go."""


class Draws:
    """Place ``i`` of each tensor is that of request ``i``."""

    def __init__(self, automaton: TokenAutomaton, warp: Warp, device: torch.device) -> None:
        self._automaton = automaton
        self._all_allowed = bool(automaton.allowed.all())
        self._warp = warp
        # The automaton's state, seed, most ids, ids drawn, length of the prompt.
        self._columns = torch.zeros(5, 0, dtype=torch.int64, device=device)
        self._ids = torch.zeros(0, 0, dtype=torch.int64, device=device)
        self._log_probs = torch.zeros(0, 0, device=device)

    @property
    def last(self) -> Int64[Tensor, "requests 1"]:
        """The ids drawn last, which the model has not read."""
        return self._ids.gather(1, self._columns[3, :, None] - 1)

    @property
    def lengths(self) -> Int64[Tensor, " requests"]:
        """How many ids stand before those."""
        return self._columns[3] + self._columns[4] - 1

    def add(self, requests: Sequence[SampleRequest]) -> None:
        """Take on requests, in the next places."""
        columns = torch.tensor(
            [[r.state, r.seed, r.max_tokens, 0, len(r.prompt)] for r in requests],
            device=self._columns.device,
        ).T
        self._columns = torch.cat([self._columns, columns], 1)
        self._pad(0, len(requests))

    def draw(self, logits: Float[Tensor, "rows size"], others: Sequence[int]) -> None:
        """Draw one id for each request: from the rows in turn, and then from those of the others.
        ``logits`` is overwritten."""
        states, seeds, _, drawn, _ = self._columns
        if (most := int(drawn.max())) == self._ids.shape[1]:
            self._pad(max(_ROOM, most), 0)
        allowed = None if self._all_allowed else self._automaton.allowed[states[: len(logits)]]
        rows = torch.tensor([*range(len(logits)), *others], device=states.device) if others else None
        ids, log_probs = draw(logits, allowed, self._warp, uniform(seeds, drawn), rows)
        self._ids.scatter_(1, drawn[:, None], ids)
        self._log_probs.scatter_(1, drawn[:, None], log_probs)
        states.copy_(self._automaton.following[states, ids[:, 0]])
        drawn += 1

    def _pad(self, columns: int, rows: int) -> None:
        self._ids = torch.nn.functional.pad(self._ids, (0, columns, 0, rows))
        self._log_probs = torch.nn.functional.pad(self._log_probs, (0, columns, 0, rows))

    def finished(self) -> dict[int, Sample]:
        """The samples of requests that need no more ids, by place."""
        states, _, limits, drawn, _ = self._columns
        places = ((states == END) | (drawn >= limits)).nonzero()[:, 0]
        if not len(places):
            return {}
        columns = self._ids[places], self._log_probs[places], drawn[places], places
        return {
            place: Sample(tuple(ids[:count]), tuple(log_probs[:count]))
            for ids, log_probs, count, place in zip(*(c.tolist() for c in columns), strict=True)
        }

    def arrange(self, order: Sequence[int]) -> None:
        """Keep the requests at these places, in this order."""
        self._columns = self._columns[:, order]
        self._ids = self._ids[order]
        self._log_probs = self._log_probs[order]
