"""Trains a tiny model on so many processes: python -m tests.training.processes KIND COUNT OUTPUT

KIND is the name of a learner; with "sharded" its model is sharded over the processes. The parameters
after five updates are written to OUTPUT.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from safetensors.torch import save_file

from rftt import (
    BestOfN,
    Budget,
    FunctionalPolicy,
    Learner,
    Problem,
    SearchConfig,
    State,
    SupervisedLearner,
    TreeRollouts,
    Tuner,
)  # fmt: skip
from rftt.learners.presets import GRPO, ReinforcePlusPlus
from rftt.training.loader import BatchLoader
from rftt.training.sharding import full_state_dict
from tests.models import functional_policy
from tests.training.test_tuner import LikesAnalysis

Build = Callable[[FunctionalPolicy, Any], Learner]
LEARNERS: dict[str, Build] = {
    "supervised": lambda policy, reference: SupervisedLearner(policy),
    "reinforce_pp": lambda policy, reference: ReinforcePlusPlus(policy, reference, kl_coef=0.1),
    "grpo": lambda policy, reference: GRPO(
        policy, reference, drop_equal_groups=True, epochs=2, minibatches=2
    ),
}


def solutions(policy: FunctionalPolicy) -> list[dict[str, list[Any]]]:
    """Thirteen annotated solutions of uneven length."""
    question = policy.context(State(Problem("p", "1+1")))
    result = []
    for i in range(13):
        ids = policy.tokens.encode("output", tuple(20 + j % 3 for j in range(1 + i % 5)))
        action_mask = [False] * len(question) + [True] * len(ids)
        result.append({"ids": [*question, *ids], "action_mask": action_mask})
    return result


def train(kind: str, processes: int, output: Path, *, sharded: bool = False, **trainer: Any) -> None:
    """Train on thirteen items in batches of three: the last has one, and of four processes one never
    has anything."""
    torch.set_num_threads(1)
    policy = functional_policy(brief=True)
    model: Any = policy.sampler.model  # type: ignore[attr-defined]
    model.double()
    learner = LEARNERS[kind](policy, copy.deepcopy(model).requires_grad_(False))
    config = SearchConfig(Budget(rollouts=8), max_tokens=60)
    rollouts = TreeRollouts(policy, BestOfN(), LikesAnalysis(), config)
    tuner = Tuner(
        model, learner, learning_rate=1e-3, warmup_steps=1, micro_batch_tokens=150,
        tree_rollouts=None if kind == "supervised" else rollouts,
    )  # fmt: skip
    problems = [Problem(f"p{i}", f"{i}+1", "1") for i in range(13)]
    items: list[Any] = solutions(policy) if kind == "supervised" else problems
    strategy: dict[str, Any] = {"strategy": "ddp_spawn"} if processes > 1 else {}
    if sharded:
        strategy = {"strategy": ModelParallelStrategy(processes, 1)}
    lightning.Trainer(
        max_epochs=1, accelerator="cpu", devices=processes, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=output.parent,
        callbacks=[_SaveWeights(output)], **strategy, **trainer,
    ).fit(tuner, BatchLoader(items, 3))  # fmt: skip


class _SaveWeights(lightning.Callback):
    def __init__(self, output: Path) -> None:
        self.output = output

    def on_train_end(self, trainer: lightning.Trainer, tuner: lightning.LightningModule) -> None:
        assert isinstance(tuner, Tuner)
        assert tuner.updates == 5
        state = full_state_dict(tuner)
        if trainer.is_global_zero:
            save_file({name: t.clone().contiguous() for name, t in state.items()}, self.output)


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sharded="sharded" in sys.argv[4:])
