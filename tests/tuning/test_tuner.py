"""A Lightning trainer drives both phases."""

from __future__ import annotations

import copy
from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from rftt import (
    BestOfN,
    Budget,
    Explorer,
    FunctionalPolicy,
    MathVerifier,
    Problem,
    ReinforcePlusPlus,
    Step,
    SupervisedLearner,
    Tuner,
    Verdict,
    Verifier,
)  # fmt: skip
from rftt.search.tree import summary
from tests.models import functional_policy


def _trainer(folder: Path, device: str = "cpu", **more: object) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator=device, default_root_dir=folder, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, **more,
    )  # fmt: skip


def _solution(policy: FunctionalPolicy) -> dict[str, list[object]]:
    question = policy.tokenizer.encode("1+1\n")
    tokens = policy.tokens
    steps = tokens.encode([Step("next_step", (20, 21)), Step("output", (22,))])
    return {"ids": [*question, *steps], "learned": [False] * len(question) + [True] * len(steps)}


def test_supervised_tuning_teaches_the_tokens(tmp_path: Path, device: str) -> None:
    policy = functional_policy()
    model = policy.sampler.model  # type: ignore[attr-defined]
    learner = SupervisedLearner(policy)
    loader = DataLoader([_solution(policy)] * 4, batch_size=4, collate_fn=learner.collate)
    _trainer(tmp_path, device, max_epochs=40).fit(
        Tuner(model, learner, learning_rate=1e-2, warm_steps=1), loader
    )
    batch = learner.collate([_solution(policy)])
    assert float(learner.loss(model, batch).loss) < 0.1


class _LikesAnalysis(Verifier):
    """Scores 1 for a solution that begins with ``analysis``."""

    def judge(self, problem: Problem, solutions: object) -> list[Verdict]:  # type: ignore[override]
        starts = [s.steps[0].function for s in solutions]  # type: ignore[attr-defined]
        return [Verdict(float(function == "analysis")) for function in starts]


def test_reinforcement_raises_the_reward(tmp_path: Path, device: str) -> None:
    policy = functional_policy()
    model = policy.sampler.model  # type: ignore[attr-defined]
    reference = copy.deepcopy(model).requires_grad_(False)
    frozen = copy.deepcopy(reference.state_dict())
    learner = ReinforcePlusPlus(policy, reference, kl=0.001)
    explorer = Explorer(policy, BestOfN(16), _LikesAnalysis(), Budget(rollouts=16), max_tokens=40)
    rewards: list[float] = []
    tuner = Tuner(
        model, learner, explorer=explorer, learning_rate=3e-3, warm_steps=1,
        on_trees=lambda trees: rewards.append(summary(trees)["score"]),
    )  # fmt: skip
    problems = [Problem(f"p{i}", f"{i}+1", "1") for i in range(60)]
    loader = DataLoader(problems, batch_size=2, collate_fn=list)
    _trainer(tmp_path, device, max_epochs=1).fit(tuner, loader)
    assert len(rewards) == 30
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2
    for name, value in reference.state_dict().items():
        assert torch.equal(value, frozen[name])


def test_one_batch_is_one_step_however_it_is_split(tmp_path: Path) -> None:
    results = []
    for tokens_at_once in (10, 10_000):
        policy = functional_policy()
        learner = SupervisedLearner(policy)
        other = _solution(policy)
        rows = [_solution(policy), {k: v[:-3] for k, v in other.items()}]
        tuner = Tuner(policy.sampler.model, learner, learning_rate=1e-2, tokens_at_once=tokens_at_once)  # type: ignore[attr-defined]
        trainer = _trainer(tmp_path, max_epochs=1)
        trainer.fit(tuner, DataLoader(rows, batch_size=2, collate_fn=learner.collate))
        assert trainer.global_step == 1
        results.append(policy.sampler.model.state_dict())  # type: ignore[attr-defined]
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], atol=1e-4, rtol=1e-3)


def test_problems_without_an_explorer_are_refused(tmp_path: Path) -> None:
    policy = functional_policy()
    tuner = Tuner(policy.sampler.model, SupervisedLearner(policy))  # type: ignore[attr-defined]
    loader = DataLoader([Problem("p", "1+1", "2")], batch_size=1, collate_fn=list)
    with pytest.raises(ValueError, match="needs an explorer"):
        _trainer(tmp_path, max_epochs=1).fit(tuner, loader)


def test_evaluation_hides_the_gold_answer(tmp_path: Path) -> None:
    from rftt import evaluate

    class Peeks(MathVerifier):
        def judge(self, problem: Problem, solutions: object) -> list[Verdict]:  # type: ignore[override]
            assert problem.answer is None
            return super().judge(problem, solutions)  # type: ignore[arg-type]

    policy = functional_policy()
    problems = [Problem(f"p{i}", f"{i}+1", str(i + 1)) for i in range(4)]
    result, trees = evaluate(problems, BestOfN(2), policy, Peeks(), rollouts=2)
    assert len(result.marks) == len(trees) == 4
    assert result.tokens == sum(tree.tokens for tree in trees)
    with pytest.raises(ValueError, match="'q' has no answer"):
        evaluate([Problem("q", "?")], BestOfN(1), policy, MathVerifier(), rollouts=1)


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    # Worked from the formula with z = 1.959964; 50 of 100 is the textbook's (0.4038, 0.5962).
    [(50, 100, 0.4038, 0.5962), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)],
)
def test_wilson(right: int, of: int, low: float, high: float) -> None:
    from rftt.tuning.evaluation import wilson

    assert wilson(right, of) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
