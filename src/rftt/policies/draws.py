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
"""Fewest requests, and ids of a request, that there is room for."""


class Draws:
    """A table in which each request has a place of its own until it is finished."""

    def __init__(self, automaton: TokenAutomaton, warp: Warp, device: torch.device) -> None:
        self._automaton = automaton
        self._all_allowed = bool(automaton.allowed.all())
        self._warp = warp
        self._free: list[int] = []
        # The automaton's state, seed, most ids, ids drawn, length of the prompt.
        self._columns = torch.zeros(5, 0, dtype=torch.int64, device=device)
        self._ids = torch.zeros(0, _ROOM, dtype=torch.int64, device=device)
        self._log_probs = torch.zeros(0, _ROOM, device=device)

    def add(self, requests: Sequence[SampleRequest]) -> list[int]:
        """Take on requests; their places."""
        if (missing := len(requests) - len(self._free)) > 0:
            there = len(self._ids)
            more = max(missing, there, _ROOM)
            self._columns = torch.nn.functional.pad(self._columns, (0, more))
            self._pad(more, 0)
            self._free += reversed(range(there, there + more))
        places = [self._free.pop() for _ in requests]
        if not places:
            return []
        columns = [[r.state, r.seed, r.max_tokens, 0, len(r.prompt)] for r in requests]
        self._columns[:, places] = torch.tensor(columns, device=self._columns.device).T
        return places

    def unread(self, places: Sequence[int]) -> tuple[Int64[Tensor, " places"], Int64[Tensor, " places"]]:
        """How many ids the model has read of each, and the one drawn last, which it has not."""
        at = torch.tensor(places, dtype=torch.int64, device=self._ids.device)
        *_, drawn, prompts = self._columns[:, at]
        return prompts + drawn - 1, self._ids[at, drawn - 1]

    def draw(
        self, logits: Float[Tensor, "rows size"], places: Sequence[int], rows: Sequence[int]
    ) -> dict[int, Sample]:
        """Draw an id for each of these requests, from its row of the logits, which are overwritten;
        requests of one row are in the same state. What is returned are the samples that are finished:
        their places are free again."""
        at, of = torch.tensor([places, rows], device=self._ids.device)
        states, seeds, limits, drawn, _ = self._columns[:, at]
        if int(drawn.max()) == self._ids.shape[1]:
            self._pad(0, self._ids.shape[1])
        allowed = None
        if not self._all_allowed:
            allowed = self._automaton.allowed[states.new_empty(len(logits)).scatter_(0, of, states)]
        ids, log_probs = draw(logits, allowed, self._warp, uniform(seeds, drawn), of)
        self._ids[at, drawn] = ids
        self._log_probs[at, drawn] = log_probs
        states, drawn = self._automaton.following[states, ids], drawn + 1
        self._columns[0, at] = states
        self._columns[3, at] = drawn
        finished = ((states == END) | (drawn >= limits)).nonzero()[:, 0]
        return self._take_out(at[finished], drawn[finished]) if len(finished) else {}

    def _take_out(
        self, places: Int64[Tensor, " places"], counts: Int64[Tensor, " places"]
    ) -> dict[int, Sample]:
        self._free += places.tolist()
        columns = self._ids[places], self._log_probs[places], counts, places
        return {
            place: Sample(tuple(ids[:count]), tuple(log_probs[:count]))
            for ids, log_probs, count, place in zip(*(c.tolist() for c in columns), strict=True)
        }

    def _pad(self, requests: int, ids: int) -> None:
        self._ids = torch.nn.functional.pad(self._ids, (0, ids, 0, requests))
        self._log_probs = torch.nn.functional.pad(self._log_probs, (0, ids, 0, requests))
