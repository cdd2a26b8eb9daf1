"""What never reaches the weights: losses and gradients that are not finite, precisions that would be
wrong without a word."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import lightning
import torch
from attrs import frozen
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from safetensors.torch import save_file
from torch import Tensor, nn

from rftt.files import atomic_write
from rftt.learners.distributed import global_max, rank
from rftt.learners.experience import Experience
from rftt.learners.learner import Learner
from rftt.training.loader import BatchLoader
from rftt.training.sharding import check_sharding, is_sharding, local

_log = logging.getLogger(__name__)


@frozen
class NonFinite:
    """Something that is not finite: what, and the batch that it came of."""

    what: str
    batch: Experience


def check_finite(
    groups: Mapping[str, Sequence[nn.Parameter]],
    failure: NonFinite | None,
    batch: Experience,
    update: int,
    folder: str,
) -> None:
    """Refuse to go on where a loss or a gradient of any process is not finite.

    Args:
        groups: the parameters that are trained, by name.
        failure: a loss that is not finite, if there was one.
        batch: the minibatch, for gradients.
        update: the number of the update.
        folder: where the batch is saved.

    Raises:
        FloatingPointError: naming what is not finite, the update and the file with the batch.
    """
    if failure is None:
        for name, parameters in groups.items():
            grads = [local(p.grad) for p in parameters if p.grad is not None]
            if not all(bool(torch.isfinite(grad).all()) for grad in grads):
                failure = NonFinite(f"a gradient of {name.removeprefix('/') or 'the model'}", batch)
    (failed,) = global_max([float(failure is not None)])
    if not failed:
        return
    if failure is None:
        raise FloatingPointError(f"update {update}: another process has a loss that is not finite")
    path = Path(folder) / f"non_finite_update_{update}_rank_{rank()}.safetensors"
    save_experience(path, failure.batch)
    raise FloatingPointError(
        f"update {update}: {failure.what} is not finite; the batch is in {path}, and the weights are as "
        "they were"
    )


def save_experience(path: Path, batch: Experience) -> None:
    """Write the tensors of a batch to a safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        field.name: value.contiguous().cpu()
        for field in attrs.fields(Experience)
        if isinstance(value := getattr(batch, field.name), Tensor)
    }
    with atomic_write(path) as partial:
        save_file(tensors, partial)


def check_trainer(trainer: lightning.Trainer, learner: Learner, *, searches: bool) -> None:
    """Refuse what cannot be right, and warn of a precision in which the first ratio is not 1.

    Args:
        trainer, learner: what trains, and what is learned by.
        searches: whether batches are problems, which are searched with the model.

    Raises:
        ValueError: for strategies of which nothing is known; for what a sharded model cannot do; for
            float16, whose scaled gradients would be clipped before they are unscaled.
    """
    if is_sharding(trainer):
        check_sharding(trainer, learner, searches=searches)
    elif not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        raise ValueError(
            f"strategy {type(trainer.strategy).__name__} is not supported: take one device, "
            "strategy='ddp' or 'ddp_spawn', or ModelParallelStrategy to shard the model (FSDP2)"
        )
    precision = str(trainer.precision)
    if precision.startswith("16"):
        raise ValueError(
            f"precision {precision!r}: float16 is not supported; take 'bf16-mixed' or '32-true'"
        )
    if precision == "bf16-mixed" and getattr(learner, "recompute_log_probs", True) is False:
        _log.warning(
            "precision 'bf16-mixed': the model samples in full precision and learns in bfloat16, so "
            "that ratios do not begin at 1; give the learner recompute_log_probs=True, and a correction"
        )


def check_epochs(trainer: lightning.Trainer) -> None:
    """Refuse several of Lightning's epochs over a :class:`~rftt.training.loader.BatchLoader`, which
    holds all of its own in one.

    Raises:
        ValueError: if the trainer would begin a second epoch.
    """
    loader = trainer.train_dataloader
    if isinstance(loader, BatchLoader) and trainer.max_epochs != 1:
        raise ValueError(
            f"max_epochs is {trainer.max_epochs}: a {type(loader).__name__} holds all epochs of a run "
            "in one of Lightning's; pass Trainer(max_epochs=1), and the number of epochs to the loader"
        )
