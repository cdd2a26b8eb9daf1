"""Sums over all processes; with one process, the values themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


def world_size() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process among them."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def global_sum(values: Sequence[float]) -> list[float]:
    """Return the sums of some numbers over all processes, in double precision."""
    return [float(value) for value in _reduced(values, distributed.ReduceOp.SUM)]


def global_max(values: Sequence[float]) -> list[float]:
    """Return the largest of each number over all processes."""
    return [float(value) for value in _reduced(values, distributed.ReduceOp.MAX)]


def global_sums(values: Mapping[str, float]) -> dict[str, float]:
    """Return the sums of named numbers over all processes, which need not have the same names."""
    names = list(dict.fromkeys(name for some in gather(list(values)) for name in some))
    return dict(zip(names, global_sum([values.get(name, 0.0) for name in names]), strict=True))


def gather(value: T) -> list[T]:
    """Return the values of all processes, in the order of their ranks."""
    gathered = [value] * world_size()
    if world_size() > 1:
        distributed.all_gather_object(gathered, value)
    return gathered


def _reduced(values: Sequence[float], operation: distributed.ReduceOp.RedOpType) -> Tensor:
    tensor = torch.tensor(values, dtype=torch.float64)
    if world_size() > 1 and len(values):
        device = torch.device("cpu" if distributed.get_backend() == "gloo" else "cuda")
        tensor = tensor.to(device)
        distributed.all_reduce(tensor, operation)
    return tensor.cpu()
