"""What has been drawn for the requests under way, and drawing more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
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
    """A table in which each request has a place of its own until it is finished.

    It is numpy's, and so are the automaton's transitions: they are small, and torch takes several times
    as long to begin an operation.
    """

    def __init__(self, automaton: TokenAutomaton, warp: Warp, device: torch.device) -> None:
        self._allowed = None if automaton.allowed.all() else automaton.allowed.to(device)
        self._following = automaton.following.cpu().numpy()
        self._warp = warp
        self._device = device
        # Kept from draw to draw: to get fresh memory from the system takes about as long as a draw.
        self._probs = torch.empty(0, automaton.allowed.shape[1])
        self._free: list[int] = []
        # The automaton's state, seed, most ids, ids drawn, length of the prompt, last id.
        self._columns = np.zeros((6, 0), np.int64)
        self._ids = np.zeros((0, _ROOM), np.int64)
        self._log_probs = np.zeros((0, _ROOM), np.float32)

    def add(self, requests: Sequence[SampleRequest]) -> list[int]:
        """Take on requests; their places."""
        if (missing := len(requests) - len(self._free)) > 0:
            there = len(self._ids)
            more = max(missing, there, _ROOM)
            self._columns = np.pad(self._columns, ((0, 0), (0, more)))
            self._pad(more, 0)
            self._free += reversed(range(there, there + more))
        places = [self._free.pop() for _ in requests]
        for place, r in zip(places, requests, strict=True):
            self._columns[:, place] = r.state, r.seed, r.max_tokens, 0, len(r.prompt), r.prompt[-1]
        return places

    def ends(
        self, places: Sequence[int]
    ) -> tuple[Int64[np.ndarray, " places"], Int64[np.ndarray, " places"]]:
        """How many ids each has but the last, of its prompt and drawn, and the last."""
        *_, drawn, prompts, last = self._columns[:, np.array(places, np.int64)]
        return prompts + drawn - 1, last

    def draw(
        self, logits: Float[Tensor, "rows size"], places: Sequence[int], rows: Sequence[int]
    ) -> dict[int, Sample]:
        """Draw an id for each of these requests, from its row of the logits; requests of one row are in
        the same state. Samples that are finished are returned, and their places are free again."""
        at, of = np.array([places, rows])
        states, seeds, limits, drawn, *_ = self._columns[:, at]
        if drawn.max() == self._ids.shape[1]:
            self._pad(0, self._ids.shape[1])
        allowed = None
        if self._allowed is not None:
            of_rows = np.empty(len(logits), np.int64)
            of_rows[of] = states
            allowed = self._allowed[self._tensor(of_rows)]
        noise, sources = self._tensor(uniform(seeds, drawn)), self._tensor(of)
        if len(logits) > len(self._probs):
            self._probs = torch.empty_like(logits, dtype=torch.float32)
        out = self._probs[: len(logits)]
        drawn_ids = draw(logits, allowed, self._warp, noise, sources, out)
        ids, log_probs = (t.numpy(force=True) for t in drawn_ids)
        self._ids[at, drawn] = self._columns[5, at] = ids
        self._log_probs[at, drawn] = log_probs
        self._columns[0, at] = states = self._following[states, ids]
        self._columns[3, at] = drawn = drawn + 1
        finished = (states == END) | (drawn >= limits)
        return self._take_out(at[finished], drawn[finished])

    def _tensor(self, column: np.ndarray) -> Tensor:
        return torch.from_numpy(column).to(self._device)

    def _take_out(
        self, places: Int64[np.ndarray, " places"], counts: Int64[np.ndarray, " places"]
    ) -> dict[int, Sample]:
        self._free += places.tolist()
        return {
            place: Sample(
                tuple(self._ids[place, :count].tolist()), tuple(self._log_probs[place, :count].tolist())
            )
            for place, count in zip(places.tolist(), counts.tolist(), strict=True)
        }

    def _pad(self, requests: int, ids: int) -> None:
        self._ids = np.pad(self._ids, ((0, requests), (0, ids)))
        self._log_probs = np.pad(self._log_probs, ((0, requests), (0, ids)))
