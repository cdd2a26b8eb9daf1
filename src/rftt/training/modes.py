"""The modes in which a model learns: dropout, gradient checkpointing, precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import lightning
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import ParallelStrategy
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def learning(model: nn.Module, *, dropout: bool) -> Iterator[None]:
    """Put a model into the mode in which it learns.

    Without ``dropout`` a model stays in evaluation mode, also the adapters that PEFT leaves in training
    mode; only layers with gradient checkpointing are told to train, because it works in no other mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.train(dropout)
    for module, _ in modes:
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
            module.training = True
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def full_precision() -> Iterator[None]:
    """Leave autocast and a lower default precision: sampling, rewards and log-probabilities are float32
    whatever the trainer's precision is."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with ExitStack() as stack:
            for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
                stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        torch.set_default_dtype(default)


def autocast(trainer: lightning.Trainer) -> AbstractContextManager[None]:
    """Return the trainer's autocast. Of lower "true" precisions only the weights are lower."""
    plugin = trainer.precision_plugin
    return plugin.forward_context() if isinstance(plugin, MixedPrecision) else nullcontext()


@contextmanager
def without_reducer(trainer: lightning.Trainer) -> Iterator[None]:
    """Keep DDP from reducing gradients in each backward pass: processes differ in how many they make.
    They are summed once, by hand."""
    if isinstance(trainer.strategy, ParallelStrategy):
        with trainer.strategy.block_backward_sync():
            yield
    else:
        yield
