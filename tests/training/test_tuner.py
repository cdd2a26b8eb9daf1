"""A Lightning trainer drives warm-up and reinforcement, off the toy path too."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from attrs import evolve
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import FSDPStrategy
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

from rftt import (
    BestOfN,
    Budget,
    Experience,
    FunctionalPolicy,
    LossOutput,
    PolicyGradient,
    Problem,
    ReinforcePlusPlus,
    SearchConfig,
    State,
    SupervisedLearner,
    TreeRollouts,
    Tuner,
    Verdict,
    Verifier,
    run_search,
)  # fmt: skip
from rftt.learners.presets import GRPO, RLOO
from rftt.search.tree.tree import SearchTree, summary
from rftt.training.guard import check_trainer
from rftt.training.loader import BatchLoader
from rftt.training.modes import learning
from tests.learners.trees import model_of
from tests.models import functional_policy


def _trainer(folder: Path, device: str = "cpu", **more: Any) -> lightning.Trainer:
    settings = {"max_epochs": 1, "logger": False, "enable_checkpointing": False} | more
    return lightning.Trainer(
        accelerator=device, default_root_dir=folder, enable_progress_bar=False,
        enable_model_summary=False, **settings,
    )  # fmt: skip


def _solution(policy: FunctionalPolicy) -> dict[str, list[object]]:
    question = policy.context(State(Problem("p", "1+1")))
    ids = policy.tokens.encode("next_step", (20, 21)) + policy.tokens.encode("output", (22,))
    action_mask = [False] * len(question) + [True] * len(ids)
    return {"ids": [*question, *ids], "action_mask": action_mask}


def _problems(number: int) -> list[Problem]:
    return [Problem(f"p{i}", f"{i}+1", "1") for i in range(number)]


class LikesAnalysis(Verifier):
    """Scores 1 for a solution that begins with ``analysis``, or for all others."""

    def __init__(self, likes: bool = True) -> None:
        self.likes = likes

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        firsts = [state.steps[0].function for state in states]
        return [Verdict(float((first == "analysis") == self.likes)) for first in firsts]


def _rollouts(policy: FunctionalPolicy, verifier: Verifier | None = None) -> TreeRollouts:
    config = SearchConfig(Budget(rollouts=16), max_tokens=40)
    return TreeRollouts(policy, BestOfN(), verifier or LikesAnalysis(), config)


class Logged(Callback):
    """Keeps what was logged after each batch."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.metrics.append({k: float(v) for k, v in trainer.callback_metrics.items()})


def test_supervised_tuning_teaches_the_tokens(tmp_path: Path, device: str) -> None:
    policy = functional_policy()
    learner = SupervisedLearner(policy)
    loader = BatchLoader([_solution(policy)] * 4, 4, epochs=40)
    _trainer(tmp_path, device).fit(
        Tuner(model_of(policy), learner, learning_rate=1e-2, warmup_steps=1),
        loader,
    )
    batch = learner.collate([_solution(policy)])
    assert float(learner.loss(model_of(policy), batch).loss.detach()) < 0.1


def _reinforce(
    tmp_path: Path,
    *,
    precision: str = "32-true",
    device: str = "cpu",
    sign: float = 1.0,
    updates: int = 12,
) -> tuple[list[float], list[dict[str, float]]]:
    """Reinforce a tiny model; return the reward and all metrics of each update."""
    policy = functional_policy(brief=True)
    model = model_of(policy)
    reference = copy.deepcopy(model).requires_grad_(False)
    before = copy.deepcopy(reference.state_dict())
    learner = GRPO(policy, reference, kl_coef=0.001)
    credit = learner.credit
    flipped = evolve(
        learner,
        credit=lambda trees: [
            [evolve(path, advantages=[sign * a for a in path.advantages]) for path in paths]
            for paths in credit(trees)
        ],
    )
    tuner = Tuner(
        model, flipped, learning_rate=3e-3, warmup_steps=1,
        tree_rollouts=_rollouts(policy, LikesAnalysis(sign > 0)),
    )  # fmt: skip
    logged = Logged()
    trainer = _trainer(tmp_path, device, precision=precision, callbacks=[logged])
    trainer.fit(tuner, BatchLoader(_problems(2 * updates), 2))
    for name, value in reference.state_dict().items():
        assert torch.equal(value.cpu(), before[name].cpu()), "the reference is frozen"
    return [m["reward"] for m in logged.metrics], logged.metrics


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_reinforcement_raises_the_reward_in_every_precision(
    tmp_path: Path, device: str, precision: str
) -> None:
    rewards, metrics = _reinforce(tmp_path, precision=precision, device=device)
    assert len(rewards) == 12
    assert sum(rewards[-3:]) > sum(rewards[:3]) + 0.3
    assert all(math.isfinite(value) for m in metrics for value in m.values())
    for name in (
        "reward",
        "length",
        "truncated",
        "abstained",
        "function/analysis",
        "entropy/functional",
    ):
        assert name in metrics[-1]
    assert metrics[-1]["function/analysis"] > metrics[0]["function/analysis"]
    if precision == "32-true":
        assert metrics[0]["kl"] == pytest.approx(0.0, abs=1e-9)
        assert metrics[0]["old_kl"] == pytest.approx(0.0, abs=1e-9)


def test_with_the_sign_flipped_the_reward_falls(tmp_path: Path) -> None:
    rewards, _ = _reinforce(tmp_path, sign=-1.0)
    assert sum(rewards[-3:]) < sum(rewards[:3]) - 0.3


def test_bf16_mixed_says_that_ratios_do_not_begin_at_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _reinforce(tmp_path, precision="bf16-mixed", updates=1)
    assert "ratios do not begin at 1" in caplog.text


@pytest.mark.parametrize("precision", ["16-true"])
def test_float16_is_refused_by_name(tmp_path: Path, precision: str) -> None:
    with pytest.raises(ValueError, match="float16 is not supported; take 'bf16-mixed'"):
        _reinforce(tmp_path, precision=precision, updates=1)


def test_strategies_of_which_nothing_is_known_are_refused(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, devices=1)
    trainer._accelerator_connector.strategy = FSDPStrategy()
    with pytest.raises(ValueError, match="FSDPStrategy is not supported: take one device"):
        check_trainer(trainer, SupervisedLearner(functional_policy()), searches=False)


def _ids(trees: Sequence[SearchTree]) -> list[list[tuple[int, ...]]]:
    return [[step.ids for step in tree.step if step is not None] for tree in trees]


def test_the_search_of_an_update_has_a_seed_of_its_own() -> None:
    policy = functional_policy()
    config = SearchConfig(Budget(rollouts=4), seed=7, max_tokens=40)
    problems = _problems(2)
    tree_rollouts = TreeRollouts(policy, BestOfN(), LikesAnalysis(), config)
    ids = _ids(tree_rollouts(problems, update=3))
    assert _ids(tree_rollouts(problems, update=3)) == ids
    assert _ids(tree_rollouts(problems, update=4)) != ids
    direct = run_search(problems, BestOfN(), policy, LikesAnalysis(), evolve(config, seed=7_000_024))
    assert _ids(direct) == ids, "7 * 1,000,003 + 3"


def test_one_batch_is_one_step_however_it_is_split(tmp_path: Path) -> None:
    results = []
    for micro_batch_tokens in (10, 10_000):
        policy = functional_policy()
        model = model_of(policy)
        solution = _solution(policy)
        solutions = [solution, {name: column[:-3] for name, column in solution.items()}]
        tuner = Tuner(
            model, SupervisedLearner(policy), learning_rate=1e-2,
            micro_batch_tokens=micro_batch_tokens,
        )  # fmt: skip
        trainer = _trainer(tmp_path)
        trainer.fit(tuner, BatchLoader(solutions, 2))
        assert trainer.global_step == 1
        results.append(model.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], atol=1e-4, rtol=1e-3)


def test_a_torch_loader_with_collate_works_on_one_process(tmp_path: Path) -> None:
    policy = functional_policy()
    learner = SupervisedLearner(policy)
    loader = DataLoader([_solution(policy)] * 4, batch_size=2, collate_fn=learner.collate)
    trainer = _trainer(tmp_path)
    trainer.fit(Tuner(model_of(policy), learner), loader)
    assert trainer.global_step == 2


# -- what is refused, and what is skipped -------------------------------------------------------------


def test_problems_without_tree_rollouts_are_refused(tmp_path: Path) -> None:
    policy = functional_policy()
    tuner = Tuner(model_of(policy), SupervisedLearner(policy))
    with pytest.raises(ValueError, match=r"needs tree_rollouts: Tuner\(\.\.\., tree_rollouts="):
        _trainer(tmp_path).fit(tuner, BatchLoader(_problems(1), 1))


@pytest.mark.parametrize("norm", [0.0, -1.0, math.nan])
def test_a_norm_that_would_stop_learning_is_refused(norm: float) -> None:
    policy = functional_policy()
    with pytest.raises(ValueError, match=r"max_grad_norm is .*; give a number above 0, or None"):
        Tuner(model_of(policy), SupervisedLearner(policy), max_grad_norm=norm)


class _Endless(torch.utils.data.IterableDataset[dict[str, list[object]]]):
    def __init__(self, solution: dict[str, list[object]]) -> None:
        self.solution = solution

    def __iter__(self) -> Iterator[dict[str, list[object]]]:
        while True:
            yield self.solution


def test_decay_needs_to_know_where_training_ends(tmp_path: Path) -> None:
    policy = functional_policy()
    learner = SupervisedLearner(policy)

    def fit(*, limit: int | None = 5, **settings: Any) -> list[float]:
        loader = DataLoader(_Endless(_solution(policy)), batch_size=1, collate_fn=learner.collate)
        tuner = Tuner(model_of(policy), learner, decay=True, warmup_steps=1, **settings)
        rates: list[float] = []

        class Rates(Callback):
            def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
                rates.append(trainer.optimizers[0].param_groups[0]["lr"])

        _trainer(tmp_path, limit_train_batches=limit, max_epochs=1, callbacks=[Rates()]).fit(
            tuner, loader
        )
        return rates

    assert fit(total_steps=4, learning_rate=1.0) == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    with pytest.raises(ValueError, match=r"give Tuner\(\.\.\., decay=True, total_steps="):
        fit(limit=None)


class _Equal(Verifier):
    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [Verdict(0.0) for _ in states]


class _Abstains(Verifier):
    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [Verdict(None, reason="the server is down") for _ in states]


@pytest.mark.parametrize("verifier", [_Equal(), _Abstains()])
def test_a_batch_with_nothing_to_learn_is_skipped_and_counted(
    tmp_path: Path, verifier: Verifier, caplog: pytest.LogCaptureFixture
) -> None:
    policy = functional_policy(brief=True)
    model, logged = model_of(policy), Logged()
    before = copy.deepcopy(model.state_dict())
    learner = RLOO(policy, kl_coef=0.0, drop_equal_groups=True)
    tuner = Tuner(model, learner, tree_rollouts=_rollouts(policy, verifier), learning_rate=1.0)
    _trainer(tmp_path, callbacks=[logged]).fit(tuner, BatchLoader(_problems(6), 2))
    assert [m["skipped_updates"] for m in logged.metrics] == [1, 2, 3]
    assert "update 2: the batch holds nothing to learn; skipped" in caplog.text
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


class _Explodes(PolicyGradient):
    """Gives a loss or a gradient that is not finite."""

    def loss(self, model: Any, batch: Experience) -> LossOutput:
        output = super().loss(model, batch)
        bad = {"loss": output.loss * math.nan, "gradient": output.loss + 0 * _sqrt_at_0(model)}
        return LossOutput(bad[(self.entropy_coef and "gradient") or "loss"], output.metrics)


def _sqrt_at_0(model: nn.Module) -> torch.Tensor:
    weight = next(model.parameters()).flatten()[0]
    return (weight - weight.detach()).sqrt()


@pytest.mark.parametrize(
    ("kind", "what"),
    [(0.0, "the loss of micro-batch 0 is not finite"), (0.1, "a gradient of the model is not finite")],
)
def test_what_is_not_finite_never_reaches_the_weights(tmp_path: Path, kind: float, what: str) -> None:
    policy = functional_policy(brief=True)
    model = model_of(policy)
    before = copy.deepcopy(model.state_dict())
    learner = _Explodes(policy, RLOO(policy, kl_coef=0.0).credit, entropy_coef=kind)
    tuner = Tuner(model, learner, tree_rollouts=_rollouts(policy))
    with pytest.raises(FloatingPointError, match=f"update 0: {what}; the batch is in"):
        _trainer(tmp_path).fit(tuner, BatchLoader(_problems(2), 2))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    (saved,) = tmp_path.glob("non_finite_update_0_*.safetensors")
    assert {"ids", "advantages", "log_probs"} <= set(load_file(saved))


# -- modes ----------------------------------------------------------------------------------------


def test_dropout_is_off_where_the_ratio_must_be_one(tmp_path: Path) -> None:
    policy = functional_policy(brief=True)
    config = LoraConfig(r=2, lora_dropout=0.5, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(model_of(policy), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    assert any(m.training for m in model.modules() if isinstance(m, nn.Dropout)), "PEFT leaves them on"
    policy.sampler.model = model  # type: ignore[attr-defined]
    logged = Logged()
    tuner = Tuner(model, RLOO(policy, kl_coef=0.0), tree_rollouts=_rollouts(policy))
    _trainer(tmp_path, callbacks=[logged]).fit(tuner, BatchLoader(_problems(2), 2))
    assert logged.metrics[0]["old_kl"] == pytest.approx(0.0, abs=1e-9)


def test_gradient_checkpointing_works_on_a_loaded_model() -> None:
    policy = functional_policy()
    model: Any = model_of(policy)
    assert not model.training, "load_model gives models in evaluation mode"
    model.gradient_checkpointing_enable()
    recomputed = 0

    def count(*_: Any) -> None:
        nonlocal recomputed
        recomputed += 1

    for layer in model.model.layers:
        layer.mlp.register_forward_pre_hook(count)
    learner = SupervisedLearner(policy)
    with learning(model, dropout=False):
        assert not any(m.training for m in model.modules() if isinstance(m, nn.Dropout))
        learner.loss(model, learner.collate([_solution(policy)])).loss.backward()
    assert recomputed == 4, "each of two layers ran forward, and again in the backward pass"
    assert not any(module.training for module in model.modules())


def test_rewards_are_those_of_the_hook(tmp_path: Path) -> None:
    policy = functional_policy(brief=True)
    seen: list[float] = []
    logged = Logged()
    tuner = Tuner(
        model_of(policy), ReinforcePlusPlus(policy, kl_coef=0.0), tree_rollouts=_rollouts(policy),
        on_trees=lambda trees: seen.append(summary(trees)["score"]),
    )  # fmt: skip
    _trainer(tmp_path, callbacks=[logged]).fit(tuner, BatchLoader(_problems(4), 2))
    assert len(seen) == 2
    assert logging.getLogger("rftt").propagate
