"""Weights that are sharded over processes: FSDP2, by Lightning's ``ModelParallelStrategy``."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from rftt.learners.distributed import global_max
from rftt.learners.experience import Experience
from rftt.learners.learner import Learner


def is_sharding(trainer: lightning.Trainer) -> bool:
    """Return whether the trainer's strategy shards the model."""
    return isinstance(trainer.strategy, ModelParallelStrategy)


def check_sharding(trainer: lightning.Trainer, learner: Learner, *, searches: bool) -> None:
    """Refuse what cannot be done with a sharded model.

    Args:
        trainer: one whose strategy shards.
        learner: what is trained with.
        searches: whether batches are problems, which are searched with the model.

    Raises:
        ValueError: for a search, since processes call a model that searches at different times; for
            ``packing="depth_first"``, whose passes differ in number; for tensor parallelism.
    """
    strategy = trainer.strategy
    assert isinstance(strategy, ModelParallelStrategy)
    if searches:
        raise ValueError(
            "a sharded model cannot be searched with, because all processes must call it together: "
            "give reinforcement strategy='ddp', and ModelParallelStrategy to supervised fine-tuning"
        )
    if getattr(learner, "packing", None) == "depth_first":
        raise ValueError(
            "packing='depth_first' calls the model as often as a tree has branches, and all processes "
            "must call a sharded model together: take packing='tree' or 'none'"
        )
    if strategy.device_mesh["tensor_parallel"].size() != 1:
        raise ValueError(
            "tensor parallelism is not supported: give ModelParallelStrategy(data_parallel_size="
            f"{trainer.world_size}, tensor_parallel_size=1)"
        )


def shard(model: nn.Module, mesh: Any) -> None:
    """Shard a model's parameters in place, each layer by itself, the rest together.

    Gradients are summed over processes, not averaged: each loss is divided by counts of the global
    batch already.

    Args:
        model: a model of transformers.
        mesh: one-dimensional, of the processes that share the model.
    """
    for layer in [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)


def as_many_everywhere(parts: list[Experience], of: Experience) -> list[Experience]:
    """Return the parts and as many empty ones as make up for what another process has more: all must
    call a sharded model equally often.

    Args:
        parts: this process's share.
        of: what they are parts of.
    """
    (most,) = global_max([float(len(parts))])
    empty = of.select(torch.zeros(0, dtype=torch.int64))
    return parts + [empty] * (int(most) - len(parts))


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, all of it where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor; every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return all weights of a model on the CPU, sharded or not; every process must ask for them.

    ``model.save_pretrained(folder, state_dict=full_state_dict(model))`` saves a sharded model, on the
    first process.
    """
    return {name: whole(value).detach().to("cpu") for name, value in model.state_dict().items()}
