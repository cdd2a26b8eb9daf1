"""On a bandit and on a finite tree learners reach the optimum, and with the sign flipped they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
import torch

from rftt import MCTS, BestOfN, Budget, Learner, SearchConfig, Searcher, SupervisedLearner, run_search
from rftt.learners.credit.paths import Credit, PathCredit
from rftt.learners.credit.policy_weighted import policy_weighted
from rftt.learners.policy_gradient import PolicyGradient
from rftt.learners.preference import PreferenceLearner
from rftt.learners.presets import (
    CISPO,
    DAPO,
    GRPO,
    GSPO,
    RLOO,
    DrGRPO,
    ReinforcePlusPlus,
    ReinforcePlusPlusBaseline,
)
from rftt.search.tree.tree import SearchTree
from rftt.testing import (
    FiniteModel,
    FinitePolicy,
    FiniteProblem,
    Reply,
    expected_reward,
)
from rftt.testing.finite.model import trained_policy
from rftt.testing.learner.direction import two_steps
from rftt.testing.learner.workbench import GRAMMAR, verdicts


def bandit() -> FiniteProblem:
    """Three arms of one step; the best is the least likely."""
    arms = [Reply("end", "a", 0.5), Reply("end", "b", 0.3), Reply("end", "c", 0.2)]
    return FiniteProblem(
        FinitePolicy(GRAMMAR, {(): arms}), verdicts({("a",): 0.0, ("b",): 0.25, ("c",): 1.0})
    )


def dapo(policy: FinitePolicy, reference: Any) -> PolicyGradient:
    return DAPO(policy, max_tokens=10_000, overlong_buffer=1)


PRESETS: list[Callable[..., PolicyGradient]] = [
    ReinforcePlusPlus, ReinforcePlusPlusBaseline, GRPO, DrGRPO, RLOO, dapo, GSPO, CISPO,
]  # fmt: skip


def train(
    build: Callable[[FinitePolicy, FiniteModel], Learner],
    problem: FiniteProblem,
    searcher: Searcher,
    updates: int = 40,
) -> float:
    """Train a table of logits, and return the expected reward."""
    policy = problem.policy
    assert isinstance(policy, FinitePolicy)
    temperature = policy.sampling_params.temperature
    model = FiniteModel(policy, temperature)
    reference = FiniteModel(policy, temperature).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for update in range(updates):
        present = trained_policy(policy, model, temperature)
        config = SearchConfig(Budget(rollouts=16), seed=update)
        trees = run_search(problem.problems(4), searcher, present, problem.verifier, config)
        learner = build(present, reference)
        batch = learner.prepare(model, learner.experience(trees))
        if not batch.totals.actions:
            continue
        optimizer.zero_grad()
        learner.loss(model, batch).loss.backward()
        optimizer.step()
    return float(expected_reward(model, problem, temperature).detach())


def flipped(credit: Credit) -> Credit:
    def negated(trees: Sequence[SearchTree]) -> list[list[PathCredit]]:
        return [
            [attrs.evolve(path, advantages=[-a for a in path.advantages]) for path in paths]
            for paths in credit(trees)
        ]

    return negated


@pytest.mark.parametrize("make", [bandit, two_steps])
@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.__name__)
def test_a_preset_reaches_the_optimum(
    preset: Callable[..., PolicyGradient], make: Callable[[], FiniteProblem]
) -> None:
    problem = make()
    best, right = problem.best_score, train(preset, problem, BestOfN())
    assert best == 1.0
    assert right > 0.9

    def wrong(policy: FinitePolicy, reference: FiniteModel) -> Learner:
        learner = preset(policy, reference)
        return attrs.evolve(learner, credit=flipped(learner.credit))

    assert train(wrong, problem, BestOfN()) < 0.1


@pytest.mark.parametrize("make", [bandit, two_steps])
def test_tree_search_reaches_it_too(make: Callable[[], FiniteProblem]) -> None:
    searcher = MCTS(expansion="sample", width=4)
    assert train(lambda p, r: RLOO(p, r, credit=policy_weighted), make(), searcher) > 0.9


@pytest.mark.parametrize("make", [bandit, two_steps])
def test_imitating_right_paths_and_preferring_better_ones_reach_it(
    make: Callable[[], FiniteProblem],
) -> None:
    searcher = MCTS(expansion="sample", width=4)
    assert train(lambda p, r: SupervisedLearner(p), make(), searcher) > 0.9
    prefers = train(lambda p, r: PreferenceLearner(p, r, pairs="paths"), make(), searcher)
    assert prefers > 0.9
