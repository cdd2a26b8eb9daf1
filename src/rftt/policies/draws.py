"""What has been drawn for the requests under way, and drawing more."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
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
"""Fewest requests that there is room for."""


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
        self._free: list[int] = []
        # The automaton's state, seed, most ids, ids drawn, ids before the last one, the last.
        self._columns = np.zeros((6, 0), np.int64)
        self._drawn: dict[int, list[tuple[int, float]]] = {}
        """By place, ids and their log-probabilities."""

    def add(self, requests: Sequence[SampleRequest]) -> list[int]:
        """Take on requests; their places."""
        if (missing := len(requests) - len(self._free)) > 0:
            there = self._columns.shape[1]
            more = max(missing, there, _ROOM)
            self._columns = np.pad(self._columns, ((0, 0), (0, more)))
            self._free += reversed(range(there, there + more))
        places = [self._free.pop() for _ in requests]
        for place, r in zip(places, requests, strict=True):
            before, last = len(r.prompt) - 1, r.prompt[-1]
            self._columns[:, place] = r.state, r.seed, r.max_tokens, 0, before, last
            self._drawn[place] = []
        return places

    def ends(
        self, places: Sequence[int]
    ) -> tuple[Int64[np.ndarray, " places"], Int64[np.ndarray, " places"]]:
        """How many ids each has but the last, of its prompt and drawn, and the last."""
        before, last = self._columns[4:, np.array(places, np.int64)]
        return before, last

    def draw(
        self, logits: Float[Tensor, "rows size"], rows: Sequence[Sequence[int]]
    ) -> dict[int, Sample]:
        """Draw an id for each request, from its row of the logits: ``rows`` has the places of each row's
        requests, which are in the same state. Samples that are finished are returned, and their places
        are free again. Logits in single precision may be written over."""
        at = np.fromiter(chain.from_iterable(rows), np.int64)
        of = np.repeat(np.arange(len(rows)), [*map(len, rows)])
        states, seeds, limits, drawn = self._columns[:4, at]
        allowed = None
        if self._allowed is not None:
            of_rows = np.empty(len(logits), np.int64)
            of_rows[of] = states
            allowed = self._allowed[self._tensor(of_rows)]
        noise, sources = self._tensor(uniform(seeds, drawn)), self._tensor(of)
        drawn_ids = draw(logits, allowed, self._warp, noise, sources)
        ids, log_probs = (t.numpy(force=True) for t in drawn_ids)
        for place, token, log_prob in zip(at.tolist(), ids.tolist(), log_probs.tolist(), strict=True):
            self._drawn[place].append((token, log_prob))
        states = self._following[states, ids]
        self._columns[0, at], self._columns[5, at] = states, ids
        self._columns[3:5, at] += 1
        finished = at[(states == END) | (drawn + 1 >= limits)].tolist()
        self._free += finished
        samples = (zip(*self._drawn.pop(place), strict=True) for place in finished)
        return {place: Sample(*sample) for place, sample in zip(finished, samples, strict=True)}

    def _tensor(self, column: np.ndarray) -> Tensor:
        return torch.from_numpy(column).to(self._device)
