"""Expert iteration: rounds of search and fine-tuning, on a tiny model whose right answers are many."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from attrs import evolve

from rftt import BestOfN, Budget, FunctionalPolicy, MathVerifier, Problem, SearchConfig
from rftt.samplers.plain import PlainSampler
from rftt.training.expert_iteration import ExpertIteration, Round
from tests.models import functional_policy
from tests.training.test_tuner import LikesAnalysis

PROBLEMS = [Problem(f"p{i}", f"{i}+1", "1") for i in range(5)]


def _iteration(policy: FunctionalPolicy, **settings: Any) -> ExpertIteration:
    config = SearchConfig(Budget(rollouts=4), max_tokens=40)
    chosen = {"problems_per_round": 3, "max_rounds": 3, "target": 2.0, "batch_size": 2} | settings
    return ExpertIteration(policy, BestOfN(), LikesAnalysis(), config, **chosen)


def _weights(policy: FunctionalPolicy) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in policy.sampler.model.parameters()])


def test_the_rewarded_way_becomes_more_frequent_round_by_round(tmp_path: Path) -> None:
    policy = functional_policy(brief=True)
    iteration = _iteration(
        policy,
        problems_per_round=5,
        max_rounds=6,
        patience=9,
        epochs=3,
        learning_rate=3e-3,
        warmup_steps=0,
    )
    rounds = iteration.run(policy.sampler.model, PROBLEMS, tmp_path)
    assert [r.number for r in rounds] == list(range(6))
    assert rounds[-1].right > rounds[0].right + 0.2
    assert all(r.problems == 5 and r.updates > 0 for r in rounds)


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("update", [0, 1, 3, 5])
def test_a_run_that_was_killed_ends_with_the_same_weights(tmp_path: Path, update: int) -> None:
    whole = functional_policy(brief=True)
    rounds = _iteration(whole).run(whole.sampler.model, PROBLEMS, tmp_path / "whole")
    assert sum(r.updates for r in rounds) > 5

    policy, updates = functional_policy(brief=True), 0

    class Kill(lightning.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            nonlocal updates
            if updates == update:
                raise _KilledError
            updates += 1

    def trainer() -> lightning.Trainer:
        return lightning.Trainer(
            max_epochs=1, logger=False, enable_checkpointing=False, enable_model_summary=False,
            enable_progress_bar=False, callbacks=[Kill()],
        )  # fmt: skip

    with pytest.raises(_KilledError):
        _iteration(policy, trainer=trainer).run(policy.sampler.model, PROBLEMS, tmp_path / "killed")
    again = functional_policy(brief=True)
    resumed = _iteration(again).run(again.sampler.model, PROBLEMS, tmp_path / "killed")
    assert [evolve(r, seconds=0) for r in resumed] == [evolve(r, seconds=0) for r in rounds]
    torch.testing.assert_close(_weights(again), _weights(whole), rtol=0, atol=1e-6)


def test_a_finished_run_is_read_and_not_repeated(tmp_path: Path) -> None:
    policy, again = functional_policy(brief=True), functional_policy(brief=True)
    rounds = _iteration(policy).run(policy.sampler.model, PROBLEMS, tmp_path)
    assert _iteration(again).run(again.sampler.model, PROBLEMS, tmp_path) == rounds
    assert torch.equal(_weights(again), _weights(policy))


def test_a_directory_of_another_run_is_refused_by_name(tmp_path: Path) -> None:
    policy = functional_policy(brief=True)
    _iteration(policy, max_rounds=1).run(policy.sampler.model, PROBLEMS, tmp_path)
    for other, problems, name in (
        (_iteration(functional_policy(brief=True), per_problem=2), PROBLEMS, "per_problem"),
        (_iteration(functional_policy(brief=True)), PROBLEMS[:4], "problems"),
        (_iteration(functional_policy(seed=1, brief=True)), PROBLEMS, "model"),
    ):
        with pytest.raises(ValueError, match=f"{name}.*choose another directory"):
            other.run(other.policy.sampler.model, problems, tmp_path)


def test_a_finished_run_goes_on_with_more_rounds(tmp_path: Path) -> None:
    policy = functional_policy(brief=True)
    rounds = _iteration(policy, max_rounds=1).run(policy.sampler.model, PROBLEMS, tmp_path)
    again = functional_policy(brief=True)
    more = _iteration(again, max_rounds=2).run(again.sampler.model, PROBLEMS, tmp_path)
    assert more[:1] == rounds
    assert len(more) == 2


def test_a_copy_that_samples_follows_the_model(tmp_path: Path) -> None:
    """In lower precision, as a model that is tuned in mixed precision is searched faster."""
    model, copy = functional_policy(brief=True), functional_policy(brief=True)
    copy.sampler.model.to(torch.bfloat16)
    rounds = _iteration(copy).run(model.sampler.model, PROBLEMS, tmp_path)
    assert sum(r.updates for r in rounds) > 0
    assert torch.equal(_weights(copy), _weights(model).to(torch.bfloat16))
    assert not torch.equal(_weights(model), _weights(functional_policy(brief=True)))


def test_a_sampler_of_another_model_that_cannot_follow_is_refused(tmp_path: Path) -> None:
    model, other = functional_policy(brief=True), functional_policy(brief=True)
    other.sampler = PlainSampler(other.sampler.model, other.tokenizer)
    with pytest.raises(NotImplementedError, match="PlainSampler cannot take over the weights"):
        _iteration(other).run(model.sampler.model, PROBLEMS, tmp_path)


def _rounds(*right: float, paths: int = 9) -> list[Round]:
    return [Round(i, 3, 1, share, paths, 1, 1, 1.0) for i, share in enumerate(right)]


def test_it_stops_at_its_target_when_it_gets_no_better_or_at_its_last_round() -> None:
    iteration = _iteration(functional_policy(), target=0.5, patience=2, max_rounds=6)
    assert not iteration.is_done([])
    assert not iteration.is_done(_rounds(0.1, 0.2, 0.15))
    assert iteration.is_done(_rounds(0.1, 0.2, 0.15, 0.2)), "the best is two rounds old"
    assert iteration.is_done(_rounds(0.1, 0.5))
    assert iteration.is_done(_rounds(0.1, 0.11, 0.12, 0.13, 0.14, 0.15))
    with pytest.raises(ValueError, match="2 rounds of 3 problems found no right path"):
        iteration.is_done(_rounds(0.0, 0.0, paths=0))


def test_a_round_that_finds_nothing_says_so_and_leaves_the_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = functional_policy(brief=True)
    before = _weights(policy)
    iteration = evolve(_iteration(policy, max_rounds=1), verifier=MathVerifier())
    with caplog.at_level(logging.WARNING):
        (only,) = iteration.run(policy.sampler.model, PROBLEMS, tmp_path)
    assert (only.solved, only.right, only.updates) == (0, 0.0, 0)
    assert "no right path was found" in caplog.text
    assert torch.equal(_weights(policy), before)


def test_every_pass_searches_each_problem_once(tmp_path: Path) -> None:
    policy = functional_policy(brief=True)
    iteration = _iteration(policy, max_rounds=5, patience=9)
    iteration.run(policy.sampler.model, PROBLEMS, tmp_path)
    buffers = [json.loads((tmp_path / f"round_{i:03}" / "round.json").read_text()) for i in range(5)]
    assert {path["problem_id"] for path in buffers[-1]["buffer"]["paths"]} <= {p.id for p in PROBLEMS}
    assert not list(tmp_path.glob("*.search")), "searches of finished rounds are gone"
    assert [f.parent.name for f in tmp_path.glob("*/model.safetensors")] == ["round_004"]


def test_no_problems_and_problems_of_one_id_are_refused(tmp_path: Path) -> None:
    policy = functional_policy()
    with pytest.raises(ValueError, match="1 ids are of several problems, 'p0' first"):
        _iteration(policy).run(policy.sampler.model, [*PROBLEMS, PROBLEMS[0]], tmp_path)
    with pytest.raises(ValueError, match="there are no problems"):
        _iteration(policy).run(policy.sampler.model, [], tmp_path)
