"""Continuous batching: requests join a running batch as others leave it."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable
from typing import Final

import torch
from transformers import PreTrainedModel

from rftt.policies.attention import evaluating
from rftt.policies.lane import Keyed, Lane
from rftt.policies.sampler import Sample, SampleRequest, SampleStream

_WORTH_A_LANE: Final = 256
"""With fewer rows, another forward pass costs more than columns that are read for nothing."""
_SHARE: Final = 8
"""Requests wait until they are one for so many that run, or for so many steps: reading a few prompts
takes about as long as reading one."""


class RunningBatch(SampleStream):
    """A stream over one model, in lanes.

    Attention reads as many columns of every row as the longest row in its forward pass has. So there
    is a lane for prompts of up to 63 ids, one for those of up to 127, and so on; where few would be in
    one, they go with longer ones.
    """

    def __init__(self, model: PreTrainedModel, lane: Callable[[int], Lane], batch_size: int) -> None:
        self._model = model
        self._new_lane = lane
        self._batch_size = batch_size
        self._lanes: dict[int, Lane] = {}
        self._waiting: list[tuple[int, int, SampleRequest]] = []
        self._added = 0
        self._steps = 0

    def add(self, key: int, request: SampleRequest) -> None:
        self._added += 1  # breaks ties, so that requests are never compared
        heapq.heappush(self._waiting, (key, self._added, request))

    @torch.no_grad()
    def collect(self) -> list[tuple[int, Sample]]:
        done: list[tuple[int, Sample]] = []
        with evaluating(self._model):
            while not done and (self._waiting or self._live):
                if joining := self._joining():
                    done += self._admit(joining)
                else:
                    done += self._decode()
        return done

    @property
    def _live(self) -> int:
        return sum(map(len, self._lanes.values()))

    def _joining(self) -> int:
        """How many of those that wait should be taken in now."""
        count = min(len(self._waiting), self._batch_size - self._live)
        return count if count * _SHARE >= self._live or self._steps >= _SHARE else 0

    def _admit(self, count: int) -> list[tuple[int, Sample]]:
        taken = [heapq.heappop(self._waiting) for _ in range(count)]
        groups: defaultdict[int, list[Keyed]] = defaultdict(list)
        for key, _, request in taken:
            groups[len(request.prompt).bit_length()].append(Keyed(key, request))
        rows = {size: len(lane) for size, lane in self._lanes.items() if len(lane)}
        for size in sorted(groups):
            longer = min((other for other in {*groups, *rows} if other > size), default=None)
            if longer and len(groups[size]) + rows.get(size, 0) < _WORTH_A_LANE:
                groups[longer] += groups.pop(size)
        done = []
        for size, requests in groups.items():
            if size not in self._lanes:
                self._lanes[size] = self._new_lane(size)
            self._lanes[size].admit(requests)
            done += self._lanes[size].retire()
        self._steps = 0
        return done

    def _decode(self) -> list[tuple[int, Sample]]:
        done = []
        for lane in filter(len, self._lanes.values()):
            lane.decode()
            done += lane.retire()
        self._steps += 1
        return done
