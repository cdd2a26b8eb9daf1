"""Continuous batching: requests join a running batch as others leave it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from rftt.policies.lane import Keyed, Lane
from rftt.policies.sampler import Sample, SampleRequest, SampleStream


class RunningBatch(SampleStream):
    """A stream over one model, in lanes.

    Attention reads as many columns of every row as the longest row in its forward pass has. So rows
    that begin together stay together in a lane, and new ones start in an empty lane; lanes that
    have become small are put together.
    """

    def __init__(self, model: PreTrainedModel, lanes: Sequence[Lane]) -> None:
        self._model = model
        self._lanes = list(lanes)
        self._waiting: list[tuple[int, int, SampleRequest]] = []
        self._added = 0

    def add(self, key: int, request: SampleRequest) -> None:
        self._added += 1  # breaks ties, so that requests are never compared
        heapq.heappush(self._waiting, (key, self._added, request))

    @torch.no_grad()
    def collect(self) -> list[tuple[int, Sample]]:
        done: list[tuple[int, Sample]] = []
        with evaluating(self._model):
            while not done and (self._waiting or any(self._lanes)):
                self._merge()
                if self._waiting and (lane := self._lane_with_room()) is not None:
                    self._admit(lane)
                    done += lane.retire()
                    continue
                for lane in filter(len, self._lanes):
                    lane.decode()
                    done += lane.retire()
        return done

    def _merge(self) -> None:
        """Put the two smallest lanes together where they fit into one."""
        by_size = sorted(filter(len, self._lanes), key=len)
        while len(by_size) > 1 and len(by_size[0]) + len(by_size[1]) <= by_size[1].capacity:
            by_size[1].absorb(by_size.pop(0))
            by_size.sort(key=len)

    def _lane_with_room(self) -> Lane | None:
        """An empty lane; or, where there is one lane only, that, once an eighth of it is free: reading
        a few prompts takes about as long as reading one."""
        if len(self._lanes) > 1:
            return next((lane for lane in self._lanes if not len(lane)), None)
        (lane,) = self._lanes
        return lane if (lane.capacity - len(lane)) * 8 >= lane.capacity else None

    def _admit(self, lane: Lane) -> None:
        count = min(lane.capacity - len(lane), len(self._waiting))
        taken = [heapq.heappop(self._waiting) for _ in range(count)]
        lane.admit([Keyed(key, request) for key, _, request in taken])


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Dropout off inside, and the model's own mode restored after."""
    was_training = model.training
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()
