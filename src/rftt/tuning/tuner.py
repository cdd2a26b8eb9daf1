"""The Lightning composition: one module for both phases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch
from attrs import frozen
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from rftt.interfaces import Policy, Verifier
from rftt.learners.experience import Experience
from rftt.learners.learner import Learner
from rftt.problems.problem import Problem
from rftt.search.budget import Budget
from rftt.search.engine import run_search
from rftt.search.searcher import Searcher
from rftt.search.tree import SearchTree, summary


@frozen(eq=False)
class Explorer:
    """All that turns problems into trees: what to search with, and how much.

    Attributes:
        policy: usually samples from the model that is being tuned.
        searcher: the strategy.
        verifier: gives the reward.
        budget: for each problem.
        seed: with the number of the update it seeds each search.
        max_depth, max_tokens: as in :func:`rftt.search.engine.run_search`.
    """

    policy: Policy
    searcher: Searcher
    verifier: Verifier
    budget: Budget
    seed: int = 0
    max_depth: int = 18
    max_tokens: int = 512

    def __call__(self, problems: Sequence[Problem], update: int) -> list[SearchTree]:
        return run_search(
            problems, self.searcher, self.policy, self.verifier,
            budget=self.budget, seed=self.seed * 1_000_003 + update,
            max_depth=self.max_depth, max_tokens=self.max_tokens,
        )  # fmt: skip


class Tuner(lightning.LightningModule):
    """Tunes a model: a Lightning ``Trainer`` drives it.

    A batch is either an :class:`Experience` (supervised: a loader whose ``collate_fn`` is the
    learner's) or a list of problems (reinforcement: a loader over problems with
    ``collate_fn=list``), which are searched inside ``training_step``, so that every update learns
    from the current policy. One batch is one optimizer step, whatever its size: gradients of its
    parts add up to those of the whole.

    Args:
        model: what is tuned; parameters that do not require gradients stay as they are.
        learner: turns trees into experience, and experience into a loss.
        explorer: needed when batches are problems.
        learning_rate: of AdamW, after ``warm_steps`` of linear growth; constant from there, or with
            ``decay`` falling linearly to 0 at the end of training.
        tokens_at_once: places in one forward and backward pass; bounds memory, changes nothing else.
        max_grad_norm: gradients are scaled down to this norm.
        on_trees: hook that is given each batch's trees.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        learner: Learner,
        *,
        explorer: Explorer | None = None,
        learning_rate: float = 7e-6,
        warm_steps: int = 10,
        decay: bool = False,
        tokens_at_once: int = 2048,
        max_grad_norm: float = 1.0,
        on_trees: Callable[[Sequence[SearchTree]], None] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.learner = learner
        self.explorer = explorer
        self.learning_rate = learning_rate
        self.warm_steps = warm_steps
        self.decay = decay
        self.tokens_at_once = tokens_at_once
        self.max_grad_norm = max_grad_norm
        self.on_trees = on_trees

    def training_step(self, batch: Experience | list[Problem], batch_index: int) -> None:
        experience = batch if isinstance(batch, Experience) else self._explore(batch)
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(schedule, LRScheduler)
        optimizer.zero_grad()
        totals: dict[str, float] = {"loss": 0.0}
        for part in experience.parts(self.tokens_at_once):
            output = self.learner.loss(self.model, part.to(self.device))
            self.manual_backward(output.loss)
            totals["loss"] += float(output.loss.detach())
            for name, value in output.metrics.items():
                totals[name] = totals.get(name, 0.0) + value
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        totals["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm))
        optimizer.step()
        schedule.step()
        self.log_dict(totals, prog_bar=True, batch_size=len(experience))

    def _explore(self, problems: list[Problem]) -> Experience:
        if self.explorer is None:
            raise ValueError("a batch of problems needs an explorer: Tuner(..., explorer=Explorer(...))")
        trees = self.explorer(problems, self.global_step)
        if self.on_trees is not None:
            self.on_trees(trees)
        self.log_dict(
            {f"tree_{name}": value for name, value in summary(trees).items()},
            prog_bar=True,
            batch_size=len(problems),
        )
        return self.learner.experience(trees)

    def configure_optimizers(self) -> Any:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=0.0)
        steps = int(self.trainer.estimated_stepping_batches) if self.decay else 0

        def scale(step: int) -> float:
            grown = min(1.0, (step + 1) / max(1, self.warm_steps))
            return grown * (1 - step / steps) if self.decay else grown

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
        return {"optimizer": optimizer, "lr_scheduler": schedule}
