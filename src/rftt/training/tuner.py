"""The Lightning composition: one module for both phases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch
from attrs import evolve, frozen
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from rftt.interfaces import Policy, Verifier
from rftt.learners.experience import Experience
from rftt.learners.learner import Learner
from rftt.problems.problem import Problem
from rftt.search.budget import SearchConfig
from rftt.search.engine.engine import run_search
from rftt.search.searcher import Searcher
from rftt.search.tree.tree import SearchTree, summary


@frozen(eq=False)
class TreeRollouts:
    """Searches the problems of an update.

    Attributes:
        policy: usually samples from the model that is being tuned.
        searcher: the strategy.
        verifier: gives the reward.
        config: the settings of each search, except that its seed is derived from ``config.seed`` and
            the number of the update.
    """

    policy: Policy
    searcher: Searcher
    verifier: Verifier
    config: SearchConfig

    def __call__(self, problems: Sequence[Problem], update: int) -> list[SearchTree]:
        """Return one tree for each problem, in order."""
        config = evolve(self.config, seed=self.config.seed * 1_000_003 + update)
        return run_search(problems, self.searcher, self.policy, self.verifier, config)


class Tuner(lightning.LightningModule):
    """Tunes a model; a Lightning ``Trainer`` drives it.

    A batch is one of two things. Supervised: an :class:`Experience`, from a loader whose ``collate_fn``
    is the learner's. Reinforcement: a list of problems, from a loader over problems with
    ``collate_fn=list``; they are searched inside ``training_step``, so that every update learns from
    the current policy. One batch is one optimizer step, whatever its size: the gradients of its
    micro-batches add up to its own.

    Args:
        model: what is tuned; parameters that do not require gradients stay as they are.
        learner: turns trees into experience, and experience into a loss.
        tree_rollouts: turns problems into trees; needed when batches are problems.
        learning_rate: of AdamW, reached after ``warmup_steps``.
        warmup_steps: updates in which the learning rate grows linearly.
        decay: whether it then falls linearly to 0 at the end of training; else it is constant.
        micro_batch_tokens: places in one forward and backward pass; bounds memory, changes nothing else.
        max_grad_norm: gradients are scaled down to this norm.
        on_trees: hook that is given each batch's trees.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        learner: Learner,
        *,
        tree_rollouts: TreeRollouts | None = None,
        learning_rate: float = 7e-6,
        warmup_steps: int = 10,
        decay: bool = False,
        micro_batch_tokens: int = 2048,
        max_grad_norm: float = 1.0,
        on_trees: Callable[[Sequence[SearchTree]], None] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.learner = learner
        self.tree_rollouts = tree_rollouts
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.decay = decay
        self.micro_batch_tokens = micro_batch_tokens
        self.max_grad_norm = max_grad_norm
        self.on_trees = on_trees

    def training_step(self, batch: Experience | list[Problem], batch_index: int) -> None:
        """Update the model once.

        Raises:
            ValueError: if the batch is a list of problems and there are no ``tree_rollouts``, or the
                trees hold nothing to learn from.
        """
        experience = batch if isinstance(batch, Experience) else self._roll_out(batch)
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(schedule, LRScheduler)
        optimizer.zero_grad()
        totals: dict[str, float] = {"loss": 0.0}
        for micro_batch in experience.micro_batches(self.micro_batch_tokens):
            output = self.learner.loss(self.model, micro_batch.to(self.device))
            self.manual_backward(output.loss)
            totals["loss"] += float(output.loss.detach())
            for name, value in output.metrics.items():
                totals[name] = totals.get(name, 0.0) + value
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        totals["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm))
        optimizer.step()
        schedule.step()
        self.log_dict(totals, prog_bar=True, batch_size=len(experience))

    def _roll_out(self, problems: list[Problem]) -> Experience:
        if self.tree_rollouts is None:
            raise ValueError(
                "a batch of problems needs tree_rollouts: Tuner(..., tree_rollouts=TreeRollouts(...))"
            )
        trees = self.tree_rollouts(problems, self.global_step)
        if self.on_trees is not None:
            self.on_trees(trees)
        self.log_dict(
            {f"tree_{name}": value for name, value in summary(trees).items()},
            prog_bar=True,
            batch_size=len(problems),
        )
        return self.learner.experience(trees)

    def configure_optimizers(self) -> Any:
        """Make AdamW and the schedule of its learning rate."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=0.0)
        steps = int(self.trainer.estimated_stepping_batches) if self.decay else 0

        def scale(step: int) -> float:
            warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
            return warmup * (1 - step / steps) if self.decay else warmup

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
        return {"optimizer": optimizer, "lr_scheduler": schedule}
