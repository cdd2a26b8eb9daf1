"""The Lightning composition: one module for warm-up and reinforcement, on one process or many."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.optim.lr_scheduler import LRScheduler

from rftt.learners.distributed import global_sums, rank, world_size
from rftt.learners.experience import Experience
from rftt.learners.forward.micro_batches import micro_batches, minibatches
from rftt.learners.learner import Learner
from rftt.learners.metrics import rollout_metrics
from rftt.problems.problem import Problem
from rftt.samplers.model_state import evaluating
from rftt.search.seeding import seed_from
from rftt.search.tree.tree import SearchTree
from rftt.training.gradients import add_up, clip, reduce_gradients
from rftt.training.guard import NonFinite, check_epochs, check_finite, check_trainer
from rftt.training.modes import autocast, full_precision, learning, without_reducer
from rftt.training.schedule import warmup_and_decay
from rftt.training.sharding import as_many_everywhere, is_sharding, shard
from rftt.training.tree_rollouts import Rollouts

_log = logging.getLogger(__name__)


class Tuner(lightning.LightningModule):
    """Tunes a model; a Lightning ``Trainer`` drives it.

    A batch is a list, the same on every process, of which each takes its share. Problems are searched
    inside ``training_step``, so that every update learns from the current policy; annotated solutions
    go through the learner's ``collate``. An :class:`Experience` is taken as it is, by one process. One
    batch is one update: the gradients of its micro-batches and of all processes add up to its own,
    however it is split, so ``strategy="ddp"`` gives what one process does.

    Every draw is a function of the seed and the number of the update: a run that is resumed from one of
    Lightning's checkpoints ends as if it had never stopped. Load them with ``weights_only=True``.

    Args:
        model: what is tuned; parameters that do not require gradients stay as they are.
        learner: turns trees into experience, and experience into a loss.
        tree_rollouts: turns the problems of an update into trees: :class:`TreeRollouts`, or
            :class:`~rftt.training.dynamic_sampling.DynamicSampling`; needed when batches are problems.
        learning_rate: of AdamW, reached after ``warmup_steps``; the learner's modules may have others.
        warmup_steps: updates in which the learning rate grows linearly.
        decay: whether it then falls linearly to 0 at the end of training; else it is constant.
        total_steps: updates until the end of training; needed for ``decay`` where the loader's length is
            unknown.
        micro_batch_tokens: tokens in one forward and backward pass; bounds memory, changes nothing else.
        max_grad_norm: gradients are scaled down to this norm, those of each of the learner's modules by
            themselves; ``None`` leaves them.
        seed: of minibatches and dropout.
        on_trees: hook that is given each batch's trees, those of this process.

    Raises:
        ValueError: if ``max_grad_norm`` is not above 0.
    """

    def __init__(
        self,
        model: nn.Module,
        learner: Learner,
        *,
        tree_rollouts: Rollouts | None = None,
        learning_rate: float = 7e-6,
        warmup_steps: int = 10,
        decay: bool = False,
        total_steps: int | None = None,
        micro_batch_tokens: int = 2048,
        max_grad_norm: float | None = 1.0,
        seed: int = 0,
        on_trees: Callable[[Sequence[SearchTree]], None] | None = None,
    ) -> None:
        super().__init__()
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm is {max_grad_norm}; give a number above 0, or None")
        self.automatic_optimization = False
        self.model = model
        self.learner = learner
        self.learner_modules = nn.ModuleDict(dict(learner.modules))
        self.tree_rollouts = tree_rollouts
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.decay = decay
        self.total_steps = total_steps
        self.micro_batch_tokens = micro_batch_tokens
        self.max_grad_norm = max_grad_norm
        self.seed = seed
        self.on_trees = on_trees
        self._loader_state: Any = None
        self.updates = 0
        self.skipped_updates = 0

    # -- one update -------------------------------------------------------------------------------

    def training_step(self, batch: Experience | list[Any], batch_index: int) -> None:
        """Update the model once; skip a batch that holds nothing to learn, and count it.

        Raises:
            ValueError: if the batch is a list of problems and there are no ``tree_rollouts``.
            FloatingPointError: if the loss or a gradient is not finite. The batch has been saved, and
                the weights are as they were.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), full_precision():
            torch.manual_seed(seed_from(f"{self.seed}/{self.updates}/{rank()}"))
            with evaluating(self.model), evaluating(self.learner_modules):
                experience, metrics = self._experience(batch)
                if experience.totals.actions:
                    with autocast(self.trainer):
                        experience = self.learner.prepare(self.model, experience)
            if experience.totals.actions:
                metrics |= self._learn(experience)
                self.learner.after_update({"rollouts": experience.totals.sequences} | metrics)
                schedule = self.lr_schedulers()
                assert isinstance(schedule, LRScheduler)
                schedule.step()
            else:
                self.skipped_updates += 1
                _log.warning("update %d: the batch holds nothing to learn; skipped", self.updates)
        self.updates += 1
        metrics["skipped_updates"] = float(self.skipped_updates)
        self.log_dict(metrics, prog_bar=True, batch_size=1, on_step=True, on_epoch=False)

    def _experience(self, batch: Experience | list[Any]) -> tuple[Experience, dict[str, float]]:
        """Return this process's share of the batch as experience, and what to log of it."""
        if isinstance(batch, Experience):
            if world_size() > 1:
                raise ValueError(
                    "a batch that is an Experience is of one process: with several, let the loader "
                    "yield lists of problems or of annotated solutions, the same on every process"
                )
            return batch, {}
        if not batch or not isinstance(batch[0], Problem):
            collate = getattr(self.learner, "collate", None)
            if collate is None:
                raise ValueError(
                    f"{type(self.learner).__name__} has no collate for a batch of "
                    f"{type(batch[0]).__name__ if batch else 'nothing'}: give it problems"
                )
            return collate(batch[rank() :: world_size()]), {}
        if self.tree_rollouts is None:
            raise ValueError(
                "a batch of problems needs tree_rollouts: Tuner(..., tree_rollouts=TreeRollouts(...))"
            )
        trees = self.tree_rollouts(batch, self.updates)
        if self.on_trees is not None:
            self.on_trees(trees)
        return self.learner.experience(trees), rollout_metrics(trees)

    def _learn(self, experience: Experience) -> dict[str, float]:
        learner, found = self.learner, list[dict[str, float]]()
        with (
            learning(self.model, dropout=learner.dropout),
            learning(self.learner_modules, dropout=learner.dropout),
        ):
            for part in self._minibatches(experience):
                found.append(self._accumulate(part))
                if len(found) > 1 and learner.stops_early(found[-1]):
                    _log.info("update %d: stopped early before step %d", self.updates, len(found))
                    break
                found[-1] |= self._step()
        names = dict.fromkeys(name for metrics in found for name in metrics)
        metrics = {name: fmean(m[name] for m in found if name in m) for name in names}
        return metrics | {"optimizer_steps": float(sum("grad_norm" in m for m in found))}

    def _minibatches(self, experience: Experience) -> Iterator[Experience]:
        """Yield the minibatches of all epochs, without those in which no process has an action."""
        for epoch in range(self.learner.epochs):
            seed = seed_from(f"{self.seed}/{self.updates}/{epoch}")
            for part in minibatches(experience, self.learner.minibatches, seed):
                if part.totals.actions:
                    yield part

    def _accumulate(self, part: Experience) -> dict[str, float]:
        """Add up the gradients of a minibatch over its micro-batches and all processes."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        optimizer.zero_grad()
        totals: dict[str, float] = {"loss": 0.0}
        failure: NonFinite | None = None
        with without_reducer(self.trainer):
            parts = list(micro_batches(part, self.micro_batch_tokens, packed=_packed(self.learner)))
            if is_sharding(self.trainer):
                parts = as_many_everywhere(parts, part)
            for number, micro_batch in enumerate(parts):
                with autocast(self.trainer):
                    output = self.learner.loss(self.model, micro_batch.to(self.device))
                if not bool(torch.isfinite(output.loss)):
                    failure = failure or NonFinite(f"the loss of micro-batch {number}", micro_batch)
                self.manual_backward(output.loss)
                add_up(totals, {"loss": float(output.loss.detach()), **output.metrics})
        groups = self._groups()
        reduce_gradients([parameter for group in groups.values() for parameter in group])
        check_finite(groups, failure, part, self.updates, self.trainer.default_root_dir)
        return global_sums(totals)

    def _step(self) -> dict[str, float]:
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        norms = {
            f"grad_norm{suffix}": clip(parameters, self.max_grad_norm)
            for suffix, parameters in self._groups().items()
        }
        optimizer.step()
        return norms

    # -- parameters, schedule, checkpoints -----------------------------------------------------------

    def configure_model(self) -> None:
        """Shard the model where the trainer's strategy is one that shards."""
        if is_sharding(self.trainer) and not isinstance(self.model, FSDPModule):
            mesh = self.device_mesh
            assert mesh is not None
            shard(self.model, mesh["data_parallel"])

    def _groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters that are trained, the learner's modules apart, by suffix of a metric."""
        groups = {"": [p for p in self.model.parameters() if p.requires_grad]}
        for name, module in self.learner_modules.items():
            groups[f"/{name}"] = [p for p in module.parameters() if p.requires_grad]
        return groups

    def configure_optimizers(self) -> Any:
        """Make AdamW and the schedule of its learning rate."""
        rates = self.learner.learning_rates
        groups = [
            {"params": parameters, "lr": rates.get(suffix.removeprefix("/"), self.learning_rate)}
            for suffix, parameters in self._groups().items()
            if parameters
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, weight_decay=0.0)
        steps = self._decay_steps() if self.decay else None
        return {
            "optimizer": optimizer,
            "lr_scheduler": warmup_and_decay(optimizer, self.warmup_steps, steps),
        }

    def _decay_steps(self) -> int:
        if self.total_steps is not None:
            return self.total_steps
        steps = self.trainer.estimated_stepping_batches
        if not 0 < steps < float("inf"):
            raise ValueError(
                "decay: the loader's length is not known, so neither is the end of training: give "
                "Tuner(..., decay=True, total_steps=...)"
            )
        return int(steps)

    def on_fit_start(self) -> None:
        """Refuse what would be silently wrong."""
        check_trainer(self.trainer, self.learner, searches=self.tree_rollouts is not None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the number of the update and the learner's state."""
        checkpoint["rftt"] = {
            "updates": self.updates,
            "skipped_updates": self.skipped_updates,
            "learner": self.learner.state_dict(),
        }
        loader = self.trainer.train_dataloader
        if loader is not None and hasattr(loader, "state_dict"):
            checkpoint["rftt"]["loader"] = loader.state_dict()

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore what :meth:`on_save_checkpoint` added."""
        state = checkpoint["rftt"]
        self.updates, self.skipped_updates = state["updates"], state["skipped_updates"]
        self.learner.load_state_dict(state["learner"])
        self._loader_state = state.get("loader")

    def on_train_start(self) -> None:
        """Restore the loader's position. Lightning 2.6.6 loses it where the loader's length was asked
        for before, as ``decay`` does."""
        check_epochs(self.trainer)
        loader = self.trainer.train_dataloader
        if self._loader_state is not None and loader is not None:
            loader.load_state_dict(self._loader_state)
            self._loader_state = None


def _packed(learner: Learner) -> bool:
    return getattr(learner, "packing", "tree") != "none"
