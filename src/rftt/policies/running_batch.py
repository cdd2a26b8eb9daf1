"""Continuous batching: requests join a running batch as others leave it."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable
from typing import Final

import torch

from rftt.policies.draws import Draws
from rftt.policies.lane import Keyed, Lane
from rftt.policies.packed import PackedModel
from rftt.policies.prefill import refuse_empty
from rftt.policies.sampler import Sample, SampleRequest, SampleStream

_WORTH_A_LANE: Final = 1 << 26
"""So many bytes read for nothing in every pass take longer than attention apart."""


class RunningBatch(SampleStream):
    """A stream over one model, in lanes.

    Attention reads as many columns of every row as the longest row of its lane has. So there is a lane
    for prompts of up to 63 ids, one for those of up to 127, and so on; where it would spare little, they
    go with longer ones.

    Args:
        model: reads what the lanes hold.
        draws: an empty table for requests.
        lane: a new lane for prompts whose lengths have so many bits.
        batch_size: most requests in all lanes.
        token_bytes: what a token's keys and values take.
    """

    def __init__(
        self,
        model: PackedModel,
        draws: Draws,
        lane: Callable[[int], Lane],
        batch_size: int,
        token_bytes: int,
    ) -> None:
        self._model = model
        self._draws = draws
        self._new_lane = lane
        self._batch_size = batch_size
        self._token_bytes = token_bytes
        self._lanes: dict[int, Lane] = {}
        self._waiting: list[tuple[int, int, SampleRequest]] = []
        self._added = 0

    def add(self, key: int, request: SampleRequest) -> None:
        refuse_empty(key, request.prompt)
        self._added += 1  # breaks ties, so that requests are never compared
        heapq.heappush(self._waiting, (key, self._added, request))

    @torch.no_grad()
    def collect(self) -> list[tuple[int, Sample]]:
        done: list[tuple[int, Sample]] = []
        with self._model.evaluating():
            while not done and (self._waiting or self._live):
                self._admit()
                done = self._step()
        return done

    @property
    def _live(self) -> int:
        return sum(map(len, self._lanes.values()))

    def _admit(self) -> None:
        groups: defaultdict[int, list[Keyed]] = defaultdict(list)
        for _ in range(min(len(self._waiting), self._batch_size - self._live)):
            key, _, request = heapq.heappop(self._waiting)
            groups[len(request.prompt).bit_length()].append(Keyed(key, request))
        rows = {size: len(lane) for size, lane in self._lanes.items() if len(lane)}
        for size in sorted(groups):
            longer = min((other for other in {*groups, *rows} if other > size), default=None)
            count = len(groups[size]) + rows.get(size, 0)
            if longer and count * (2**longer - 2**size) * self._token_bytes < _WORTH_A_LANE:
                groups[longer] += groups.pop(size)
        for size, requests in groups.items():
            if size not in self._lanes:
                self._lanes[size] = self._new_lane(size)
            self._lanes[size].admit(requests)

    def _step(self) -> list[tuple[int, Sample]]:
        """One forward pass and one draw for all lanes."""
        lanes = [lane for lane in self._lanes.values() if len(lane)]
        logits = self._model.read([block for lane in lanes for block in lane.blocks()])
        finished = self._draws.draw(logits, [row for lane in lanes for row in lane.rows])
        return [sample for lane in lanes for sample in lane.retire(finished)]
