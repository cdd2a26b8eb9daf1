"""A run that is killed, at whatever moment, and resumed ends with the weights of one that never was."""

from __future__ import annotations

import copy
import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import multiprocessing

from rftt import (
    BestOfN,
    Budget,
    FunctionalPolicy,
    Problem,
    SearchConfig,
    SupervisedLearner,
    TreeRollouts,
    Tuner,
)  # fmt: skip
from rftt.learners.critic import HeadCritic
from rftt.learners.loss.kl import KLPenalty
from rftt.learners.ppo import PPO
from rftt.training.curriculum import Curriculum, Resting, near_half
from rftt.training.dynamic_sampling import DynamicSampling
from rftt.training.loader import BatchLoader
from tests.models import functional_policy
from tests.training.processes import solutions
from tests.training.test_tuner import LikesAnalysis

Run = Callable[[], tuple[Tuner, BatchLoader[Any]]]


def _supervised() -> tuple[Tuner, BatchLoader[Any]]:
    """Five epochs of five batches, the last of each short, under a rate that rises and falls."""
    policy = functional_policy(brief=True)
    tuner = Tuner(
        _double(policy), SupervisedLearner(policy), learning_rate=1e-3, warmup_steps=3, decay=True
    )
    return tuner, BatchLoader(solutions(policy), 3, epochs=5)


def _reinforced() -> tuple[Tuner, BatchLoader[Any]]:
    """PPO with all that has a state: critic, adaptive KL, minibatches, curriculum, dynamic sampling."""
    policy = functional_policy(brief=True)
    model = _double(policy)
    torch.manual_seed(0)
    learner = PPO(
        policy, HeadCritic(model.config.hidden_size), copy.deepcopy(model).requires_grad_(False),
        kl=KLPenalty(0.05, "k3", target=0.01, horizon=50), epochs=2, minibatches=2, critic_warmup=2,
        critic_learning_rate=1e-2,
    )  # fmt: skip
    problems = [Problem(f"p{i}", f"{i}+1", "1") for i in range(9)]
    curriculum = Curriculum(problems, 2, updates=25, choose=Resting(near_half, 1, 2))
    config = SearchConfig(Budget(rollouts=4), max_tokens=40)
    rollouts: Any = DynamicSampling(
        TreeRollouts(policy, BestOfN(), LikesAnalysis(), config), curriculum, max_extra=2
    )
    tuner = Tuner(
        model, learner, learning_rate=1e-3, warmup_steps=3, decay=True, tree_rollouts=rollouts,
        on_trees=curriculum.record,
    )  # fmt: skip
    return tuner, curriculum


def _double(policy: FunctionalPolicy) -> Any:
    """The policy's model in double precision: how a sampler rounds depends on what it did before the
    kill, as its cache has grown, and a rounding may become a difference."""
    model: Any = policy.sampler.model  # type: ignore[attr-defined]
    return model.double()


class _KilledError(Exception):
    pass


class _Kill(Callback):
    def __init__(self, update: int | None) -> None:
        self.update = update

    def on_train_batch_start(self, trainer: Any, tuner: Any, batch: Any, batch_index: int) -> None:
        if tuner.updates == self.update:
            raise _KilledError


def _train(run: Run, folder: Path, kill_at: int | None = None) -> None:
    """Train from the last checkpoint to the end, and write what it ends in."""
    torch.set_num_threads(1)
    tuner, loader = run()
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
        callbacks=[_Kill(kill_at), ModelCheckpoint(folder, save_last=True, every_n_train_steps=1)],
    )  # fmt: skip
    last = folder / "last.ckpt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(tuner, loader, ckpt_path=last if last.exists() else None, weights_only=True)
    state = {"weights": tuner.state_dict(), "loader": loader.state_dict(), "updates": tuner.updates}
    torch.save(state | {"learner": tuner.learner.state_dict()}, folder / "end")


def _check_same_end(killed: Path, whole: Path, message: str) -> None:
    found, expected = (torch.load(folder / "end", weights_only=True) for folder in (killed, whole))
    assert (found["loader"], found["updates"]) == (expected["loader"], expected["updates"]), message
    assert found["learner"] == pytest.approx(expected["learner"], abs=1e-6), message
    torch.testing.assert_close(
        found["weights"], expected["weights"], rtol=0, atol=1e-6, msg=lambda m: f"{message}: {m}"
    )


def test_a_resumed_run_ends_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    """Stopped at a first batch, within an epoch, at its short last batch and after it, and at the end.

    Lightning restores no loader whose length a schedule asked for.
    """
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _train(_supervised, whole)
    for kill_at in (1, 3, 4, 5, 24):
        with pytest.raises(_KilledError):
            _train(_supervised, killed, kill_at)
    _train(_supervised, killed)
    _check_same_end(killed, whole, "killed at updates 1, 3, 4, 5 and 24")


# -- killed by the system -----------------------------------------------------------------------------


def _start(run: Run, folder: Path) -> Any:
    # A fork, since it starts at once.
    process = multiprocessing.get_context("fork").Process(target=_train, args=(run, folder))
    process.start()
    return process


def _updates(folder: Path) -> int:
    """The updates in the last checkpoint."""
    last = folder / "last.ckpt"
    return int(torch.load(last, weights_only=True)["rftt"]["updates"]) if last.exists() else 0


def _wait_for_a_checkpoint(folder: Path, process: Any, seconds: float) -> None:
    """Wait until the last checkpoint is replaced, so many seconds at most."""

    def written() -> int:
        return last.stat().st_mtime_ns if last.exists() else 0

    last, end = folder / "last.ckpt", time.monotonic() + seconds
    before = written()
    while written() == before and process.is_alive() and time.monotonic() < end:
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize("run", [_supervised, _reinforced])
def test_a_run_killed_at_ten_random_moments_ends_the_same(tmp_path: Path, run: Run) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    start = time.monotonic()
    process = _start(run, whole)
    process.join()
    assert process.exitcode == 0
    seconds = (time.monotonic() - start) / 25
    moments = Random(20)
    positions = []
    for kill in range(10):
        process = _start(run, killed)
        # Some are killed before their first update, others after one or two, and all in the midst of
        # something: the search, the gradients, the writing of a checkpoint.
        for _ in range(kill % 3):
            _wait_for_a_checkpoint(killed, process, seconds=60)
        _wait_for_a_checkpoint(killed, process, moments.uniform(0, seconds))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it ended before it could be killed"
        positions.append(_updates(killed))
    assert len(set(positions)) >= 5, f"killed after updates {positions}"
    process = _start(run, killed)
    process.join()
    assert process.exitcode == 0
    _check_same_end(killed, whole, f"killed after updates {positions}")
