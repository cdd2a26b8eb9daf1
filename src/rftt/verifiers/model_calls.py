"""Forward passes of a model that scores: in evaluation mode, from many threads, in batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from attrs import define
from torch import Tensor, nn

from rftt.verifiers.forks import ForkLock, computing


@define
class _Held:
    """A module that runs in evaluation mode, and how many calls it does so for."""

    module: nn.Module
    was_training: bool
    calls: int = 0


class _EvaluationMode:
    """The modules that run in evaluation mode for a call, in all threads.

    Two calls may share a model or part of one, so the first puts a module in evaluation mode and the
    last puts it back.
    """

    def __init__(self) -> None:
        self._lock = ForkLock()
        self._held: dict[int, _Held] = {}

    def enter(self, model: nn.Module, keys: list[int]) -> None:
        with self._lock:
            for module in model.modules():
                held = self._held.setdefault(id(module), _Held(module, module.training))
                held.calls += 1
                module.training = False
                keys.append(id(module))

    def leave(self, keys: Sequence[int]) -> None:
        with self._lock:
            for key in keys:
                held = self._held[key]
                held.calls -= 1
                if held.calls == 0:
                    held.module.training = held.was_training
                    del self._held[key]


_evaluation_mode: Final = _EvaluationMode()

if hasattr(os, "register_at_fork"):
    # A fork has none of the threads that torch computes with, and would wait for them for ever.
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


@contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """Run a model inside without dropout, gradients and autocast, so that its scores depend on its
    inputs alone. Each module is put back in the mode it was in.

    Args:
        model: any module; other threads may score with it, or with part of it, at the same time.
    """
    keys: list[int] = []
    with computing():
        try:
            _evaluation_mode.enter(model, keys)
            with torch.no_grad(), torch.autocast(device_of(model).type, enabled=False):
                yield
        finally:
            _evaluation_mode.leave(keys)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters."""
    return next(model.parameters()).device


def context_length(model: Any) -> int | None:
    """Return the most ids that a model takes, ``None`` if its config does not say."""
    config = getattr(model, "config", None)
    if config is None:
        return None
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    length = getattr(text, "max_position_embeddings", None)
    return None if length is None else int(length)


def batches(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Split the numbers of sequences into batches of similar length.

    Args:
        lengths: of the sequences.
        most: places in a batch, padding included; a longer sequence has a batch of its own.
    """
    result: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda n: (lengths[n], n)):
        if not result or (len(result[-1]) + 1) * lengths[number] > most:
            result.append([])
        result[-1].append(number)
    return result


def right_padded(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and a mask of which places hold one, both of shape (sequences, longest)."""
    width = max(map(len, sequences))
    ids = [[*some, *[0] * (width - len(some))] for some in sequences]
    mask = [[True] * len(some) + [False] * (width - len(some)) for some in sequences]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
