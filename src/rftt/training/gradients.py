"""Gradients of all processes: summed, measured, clipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor

from rftt.learners.distributed import world_size
from rftt.training.sharding import whole


def add_up(totals: dict[str, float], more: Mapping[str, float]) -> None:
    """Add named numbers to totals."""
    for name, value in more.items():
        totals[name] = totals.get(name, 0.0) + value


def reduce_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sum the gradients of all processes, also of those that have none. Each loss is divided by counts
    of the global batch already, so the sum is the gradient of that batch. Those of sharded parameters
    have been summed in the backward pass."""
    if world_size() == 1:
        return
    parameters = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for parameter in parameters:
        assert parameter.grad is not None
        distributed.all_reduce(parameter.grad)


def clip(parameters: Sequence[nn.Parameter], max_norm: float | None) -> float:
    """Return the norm of the gradients, scaled down to ``max_norm`` if it is larger."""
    if not parameters:
        return 0.0
    limit = float("inf") if max_norm is None else max_norm
    return float(whole(torch.nn.utils.clip_grad_norm_(parameters, limit)))
