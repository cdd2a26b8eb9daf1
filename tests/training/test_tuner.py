"""A Lightning trainer drives both phases."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import lightning
import pytest
import torch
from attrs import evolve
from torch.utils.data import DataLoader

from rftt import (
    BestOfN,
    Budget,
    FunctionalPolicy,
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
from rftt.search.tree.tree import SearchTree, summary
from tests.models import functional_policy


def _trainer(folder: Path, device: str = "cpu", **more: object) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator=device, default_root_dir=folder, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, **more,
    )  # fmt: skip


def _solution(policy: FunctionalPolicy) -> dict[str, list[object]]:
    question = policy.context(State(Problem("p", "1+1")))
    ids = policy.tokens.encode("next_step", (20, 21)) + policy.tokens.encode("output", (22,))
    action_mask = [False] * len(question) + [True] * len(ids)
    return {"ids": [*question, *ids], "action_mask": action_mask}


def test_supervised_tuning_teaches_the_tokens(tmp_path: Path, device: str) -> None:
    policy = functional_policy()
    model = policy.sampler.model  # type: ignore[attr-defined]
    learner = SupervisedLearner(policy)
    loader = DataLoader([_solution(policy)] * 4, batch_size=4, collate_fn=learner.collate)
    _trainer(tmp_path, device, max_epochs=40).fit(
        Tuner(model, learner, learning_rate=1e-2, warmup_steps=1), loader
    )
    batch = learner.collate([_solution(policy)])
    assert float(learner.loss(model, batch).loss) < 0.1


class _LikesAnalysis(Verifier):
    """Scores 1 for a solution that begins with ``analysis``."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [Verdict(float(state.steps[0].function == "analysis")) for state in states]


def test_reinforcement_raises_the_reward(tmp_path: Path, device: str) -> None:
    policy = functional_policy()
    model = policy.sampler.model  # type: ignore[attr-defined]
    reference = copy.deepcopy(model).requires_grad_(False)
    frozen = copy.deepcopy(reference.state_dict())
    learner = ReinforcePlusPlus(policy, reference, kl_coef=0.001)
    config = SearchConfig(Budget(rollouts=16), max_tokens=40)
    tree_rollouts = TreeRollouts(policy, BestOfN(), _LikesAnalysis(), config)
    rewards: list[float] = []
    tuner = Tuner(
        model, learner, tree_rollouts=tree_rollouts, learning_rate=3e-3, warmup_steps=1,
        on_trees=lambda trees: rewards.append(summary(trees)["score"]),
    )  # fmt: skip
    problems = [Problem(f"p{i}", f"{i}+1", "1") for i in range(60)]
    loader = DataLoader(problems, batch_size=2, collate_fn=list)
    _trainer(tmp_path, device, max_epochs=1).fit(tuner, loader)
    assert len(rewards) == 30
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2
    for name, value in reference.state_dict().items():
        assert torch.equal(value, frozen[name])


def _ids(trees: Sequence[SearchTree]) -> list[list[tuple[int, ...]]]:
    return [[step.ids for step in tree.step if step is not None] for tree in trees]


def test_the_search_of_an_update_has_a_seed_of_its_own() -> None:
    policy = functional_policy()
    config = SearchConfig(Budget(rollouts=4), seed=7, max_tokens=40)
    problems = [Problem(f"p{i}", f"{i}+1", "1") for i in range(2)]
    tree_rollouts = TreeRollouts(policy, BestOfN(), _LikesAnalysis(), config)
    ids = _ids(tree_rollouts(problems, update=3))
    assert _ids(tree_rollouts(problems, update=3)) == ids
    assert _ids(tree_rollouts(problems, update=4)) != ids
    direct = run_search(problems, BestOfN(), policy, _LikesAnalysis(), evolve(config, seed=7_000_024))
    assert _ids(direct) == ids, "7 * 1,000,003 + 3"


def test_one_batch_is_one_step_however_it_is_split(tmp_path: Path) -> None:
    results = []
    for micro_batch_tokens in (10, 10_000):
        policy = functional_policy()
        model = policy.sampler.model  # type: ignore[attr-defined]
        learner = SupervisedLearner(policy)
        solution = _solution(policy)
        solutions = [solution, {name: column[:-3] for name, column in solution.items()}]
        tuner = Tuner(model, learner, learning_rate=1e-2, micro_batch_tokens=micro_batch_tokens)
        trainer = _trainer(tmp_path, max_epochs=1)
        trainer.fit(tuner, DataLoader(solutions, batch_size=2, collate_fn=learner.collate))
        assert trainer.global_step == 1
        results.append(model.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], atol=1e-4, rtol=1e-3)


def test_problems_without_tree_rollouts_are_refused(tmp_path: Path) -> None:
    policy = functional_policy()
    tuner = Tuner(policy.sampler.model, SupervisedLearner(policy))  # type: ignore[attr-defined]
    loader = DataLoader([Problem("p", "1+1", "2")], batch_size=1, collate_fn=list)
    with pytest.raises(ValueError, match=r"needs tree_rollouts: Tuner\(\.\.\., tree_rollouts="):
        _trainer(tmp_path, max_epochs=1).fit(tuner, loader)
