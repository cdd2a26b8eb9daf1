"""Supervised fine-tuning: of annotated solutions, and of right paths of trees."""

from __future__ import annotations

import logging

import attrs
import pytest
import torch

from rftt import SupervisedLearner
from rftt.learners.rollouts.judged import judged_rollouts
from tests.learners.trees import ABSTAINED, BODY_IDS, hand_made, model_of, searched


def test_the_loss_is_the_mean_negative_log_likelihood() -> None:
    policy, _ = searched()
    learner, model = SupervisedLearner(policy), model_of(policy)
    solutions = [
        {"ids": [3, 4, 5, 6], "action_mask": [False, True, False, True]},
        {"ids": [3, 9], "action_mask": [False, True]},
    ]
    batch = learner.collate(solutions)
    with torch.no_grad():
        long, short = (model(torch.tensor([s["ids"]])).logits[0].log_softmax(-1) for s in solutions)
    expected = -(long[0, 4] + long[2, 6] + short[0, 9]) / 3
    assert float(learner.loss(model, batch).loss.detach()) == pytest.approx(float(expected), abs=1e-5)


def test_right_paths_of_trees_are_learned_once_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rftt")
    policy, trees = searched()
    batch = SupervisedLearner(policy).experience(trees)
    right = [r for rollouts in judged_rollouts(trees) for r in rollouts if r.score == 1.0]
    assert len(batch) == len(right) > 0
    tree = hand_made([([0], 1.0), ([1], 0.0), ([2], ABSTAINED), ([0], None)], policy)
    caplog.clear()
    assert len(SupervisedLearner(policy).experience([tree])) == 1
    logged = [r.getMessage() for r in caplog.records if r.name.startswith("rftt")]
    assert logged[-1] == "left out 1 of 2 judged paths: their score is below 1"


def test_what_the_policy_did_not_write_is_not_learned_but_for_openers() -> None:
    policy, _ = searched()
    tree = hand_made([([0, 1, 2], 1.0)], policy)
    # The searcher forced the opener, and a tool wrote the second body id.
    step = attrs.evolve(tree.step[1], action_mask=(False, True, False, True))
    tree.step[1] = step
    batch = SupervisedLearner(policy).experience([tree])
    learned = batch.ids[0][batch.action_mask[0]].tolist()
    assert learned == [policy.tokens.openers["next_step"], BODY_IDS[0], BODY_IDS[2]]


def test_nothing_right_is_an_empty_batch() -> None:
    policy, _ = searched()
    assert len(SupervisedLearner(policy).experience([hand_made([([0], 0.0)], policy)])) == 0
    assert len(SupervisedLearner(policy).collate([])) == 0
