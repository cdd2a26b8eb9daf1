"""The policy-gradient learner on real trees of a tiny model: what must not change it, and what must."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import pytest
import torch

from rftt import (
    BestOfN,
    Budget,
    Experience,
    PolicyGradient,
    Problem,
    SearchConfig,
    State,
    Verdict,
    run_search,
)
from rftt.learners.credit.outcome import group_outcome
from rftt.learners.credit.paths import PathCredit
from rftt.learners.credit.policy_weighted import policy_weighted
from rftt.learners.forward.micro_batches import micro_batches
from rftt.learners.loss.correction import ImportanceCorrection
from rftt.learners.loss.kl import KLPenalty
from rftt.learners.loss.ratios import sequence_ratio
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
from rftt.samplers.sampling import SamplingParams
from tests.learners.trees import (
    ABSTAINED,
    CountsSteps,
    gradient,
    hand_made,
    model_of,
    other_model,
    searched,
)
from tests.models import functional_policy

PRESETS: dict[str, Callable[..., PolicyGradient]] = {
    "ReinforcePlusPlus": ReinforcePlusPlus,
    "ReinforcePlusPlusBaseline": ReinforcePlusPlusBaseline,
    "GRPO": GRPO,
    "DrGRPO": partial(DrGRPO, max_tokens=60, kl_coef=0.1),
    "RLOO": RLOO,
    "DAPO": lambda policy, reference, **more: DAPO(policy, max_tokens=60, overlong_buffer=20, **more),
    "GSPO": GSPO,
    "CISPO": CISPO,
}


def _learner(preset: str, **settings: Any) -> PolicyGradient:
    policy, _ = searched()
    return PRESETS[preset](policy, other_model(policy), **settings)


@pytest.mark.parametrize("preset", PRESETS)
def test_padding_splitting_order_and_packing_leave_loss_and_gradient_unchanged(preset: str) -> None:
    learner, model = _learner(preset), other_model(searched()[0], 0.02)
    batch = learner.experience(searched()[1])
    loss, expected = gradient(learner, [batch], model)
    assert expected.abs().max() > 1e-4
    wide = attrs.evolve(
        batch,
        **{
            f.name: torch.nn.functional.pad(value, (0, 7))
            for f in attrs.fields(Experience)
            if isinstance(value := getattr(batch, f.name), torch.Tensor) and value.dim() == 2
        },
    )
    shuffled = batch.select(torch.randperm(len(batch)))
    flat = attrs.evolve(learner, packing="none")
    for one, other in (
        (learner, [wide]),
        (learner, [shuffled]),
        (learner, list(micro_batches(batch, 100))),
        (flat, list(micro_batches(batch, 150, packed=False))),
    ):
        other_loss, other_gradient = gradient(one, other, model)
        assert other_loss == pytest.approx(loss, abs=1e-5)
        torch.testing.assert_close(other_gradient, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("reference_device", ["cpu", "cuda"])
def test_a_gpu_gives_the_same_loss_and_gradient(reference_device: str) -> None:
    policy, trees = searched()
    learner = _learner("ReinforcePlusPlus", kl_coef=0.1)
    loss, expected = gradient(learner, [learner.experience(trees)], model_of(policy))
    learner.reference.to(reference_device)  # type: ignore[union-attr]
    batch = learner.experience(trees).to(torch.device("cuda"))
    on_gpu = gradient(learner, [batch], copy.deepcopy(model_of(policy)).to("cuda"))
    assert on_gpu[0] == pytest.approx(loss, abs=1e-5)
    torch.testing.assert_close(on_gpu[1].cpu(), expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_first_ratio_is_one(preset: str) -> None:
    learner = _learner(preset)
    batch = learner.experience(searched()[1])
    metrics = learner.loss(model_of(searched()[0]), batch).metrics
    assert metrics["old_kl"] == pytest.approx(0.0, abs=1e-9)
    assert metrics["clip_fraction"] == 0.0 if "clip_fraction" in metrics else preset == "RLOO"


def test_only_what_the_policy_drew_is_learned() -> None:
    policy, trees = searched()
    batch = _learner("RLOO").experience(trees)
    for row, action_mask in enumerate(batch.action_mask):
        assert not batch.advantages[row][~action_mask].any()
        assert not batch.weights[row][~action_mask].any()
    functional = torch.isin(batch.ids, torch.tensor(sorted(policy.tokens.ids)))
    assert torch.equal(batch.functional_mask, functional & batch.action_mask)


# -- by hand --------------------------------------------------------------------------------------


def test_whitened_advantages_by_hand() -> None:
    policy, _ = searched()
    learner = ReinforcePlusPlus(policy, kl_coef=0.0)
    batch = learner.experience(
        [hand_made([([0], 1.0), ([1, 2, 0], 0.0), ([1], None), ([2], ABSTAINED)], policy)]
    )
    # Two tokens of return 1 and four of return 0: mean 1/3, variance 2/9.
    s = (2 / 9) ** 0.5
    assert len(batch) == 2, "what was not judged, and what was abstained on, is no failure"
    assert batch.advantages[batch.action_mask].tolist() == pytest.approx(
        [2 / 3 / s] * 2 + [-1 / 3 / s] * 4, rel=1e-4
    )


def test_kl_in_the_reward_lowers_what_comes_before_it() -> None:
    policy, _ = searched()
    learner = _learner("ReinforcePlusPlus", kl_coef=0.5)
    batch = learner.experience([hand_made([([0, 1, 2], 1.0), ([1], 0.0)], policy)])
    gap = (batch.log_probs - batch.reference_log_probs).double()
    returns = batch.action_mask * torch.tensor([[1.0], [0.0]]).double()
    returns = returns - 0.5 * gap.flip(1).cumsum(1).flip(1) * batch.action_mask
    values = returns[batch.action_mask]
    expected = (values - values.mean()) / values.var(unbiased=False).sqrt()
    torch.testing.assert_close(
        batch.advantages[batch.action_mask].double(), expected, atol=1e-4, rtol=1e-4
    )


def test_rloo_compares_outcome_less_kl_with_the_others() -> None:
    policy, _ = searched()
    learner = _learner("RLOO", kl_coef=0.5)
    batch = learner.experience([hand_made([([0, 1, 2], 1.0), ([1], 0.0), ([0], 1.0)], policy)])
    kl = (batch.log_probs - batch.reference_log_probs).sum(1)
    returns = torch.tensor([1.0, 0.0, 1.0]) - 0.5 * kl
    for row, action_mask in enumerate(batch.action_mask):
        expected = returns[row] - (returns.sum() - returns[row]) / 2
        values = batch.advantages[row][action_mask]
        torch.testing.assert_close(values, expected.expand_as(values), atol=1e-5, rtol=1e-5)


def test_groups_of_equal_outcome_teach_nothing() -> None:
    policy, _ = searched()
    right = hand_made([([0], 1.0), ([1], 1.0)], policy, "right")
    wrong = hand_made([([0], 0.0), ([1, 2], 0.0)], policy, "wrong")
    mixed = hand_made([([0], 1.0), ([1, 2, 0], 0.0)], policy, "mixed")
    for preset in PRESETS:
        if preset == "ReinforcePlusPlus":
            continue  # it has no groups
        learner = _learner(preset, kl=None)
        assert not learner.experience([right, wrong]).advantages.any(), preset
    learner = _learner("GRPO", drop_equal_groups=True)
    assert len(learner.experience([right, wrong, mixed])) == 2, "only the mixed group is left"
    assert len(learner.experience([right, wrong])) == 0


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_equal_rewards_move_nothing_however_large_the_kl(score: float) -> None:
    policy, _ = searched()
    learner = _learner("ReinforcePlusPlus", kl_coef=0.5)
    batch = learner.experience([hand_made([([0], score), ([1, 2], score)], policy)])
    assert (batch.log_probs - batch.reference_log_probs).abs().max() > 0.01
    assert not batch.advantages.any(), "whitening KL alone would raise it to full strength"


def test_groups_are_dropped_by_outcome_not_by_scores_of_steps() -> None:
    policy, _ = searched()
    scored = [Verdict(0.0, step_scores=(s,)) for s in (0.2, 0.9)]
    tree = hand_made([([0], scored[0]), ([1], scored[1])], policy)
    assert len(_learner("GRPO", drop_equal_groups=True).experience([tree])) == 0


def test_a_one_path_tree_is_a_plain_sequence() -> None:
    policy = functional_policy()
    config = SearchConfig(Budget(rollouts=1), max_tokens=30)
    (tree,) = run_search([Problem("p", "1+3", "4")], BestOfN(), policy, CountsSteps(), config)
    end = next(tree.ends())
    tree.step[end] = attrs.evolve(tree.step[end], truncated=False, terminal=True)
    tree.verdict[end] = Verdict(1.0)
    batch = ReinforcePlusPlus(policy, kl_coef=0.0).experience([tree])
    ids = [i for step in tree.step if step is not None for i in step.ids]
    assert batch.ids[0].tolist() == [*policy.context(State(tree.problem)), *ids]
    assert int(batch.action_mask.sum()) == len(ids)


# -- ratios that are not 1 ------------------------------------------------------------------------


def test_the_loss_of_a_tuned_model_by_another_road() -> None:
    policy, trees = searched()
    learner = _learner("GRPO", kl_coef=0.3)
    batch, model = learner.experience(trees), other_model(policy, 0.1)
    total = 0.0
    for row in range(len(batch)):
        ids = batch.ids[row][batch.attention_mask[row]]
        with torch.no_grad():
            logits = model(ids[None]).logits[0]
        actions = batch.action_mask[row].nonzero()[:, 0]
        allowed = policy.automaton.mask(batch.states[row][actions])
        log_probs = logits[actions - 1].masked_fill(~allowed, -math.inf).log_softmax(-1)
        new = log_probs.gather(1, ids[actions][:, None])[:, 0]
        ratio = (new - batch.log_probs[row][actions]).exp()
        advantage = batch.advantages[row][actions]
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        gap = batch.reference_log_probs[row][actions] - new
        per_token = -surrogate + 0.3 * (gap.exp() - 1 - gap)
        total += float(batch.counts[row]) * float(per_token.mean())
    expected = total / float(batch.counts.sum())
    loss = learner.loss(model, batch).loss
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_a_sequence_ratio_moves_all_tokens_of_a_sequence_together() -> None:
    policy, trees = searched()
    learner = _learner("GSPO")
    assert learner.ratio is sequence_ratio
    batch = learner.experience(trees)
    metrics = learner.loss(other_model(policy, 0.1), batch).metrics
    assert metrics["clip_fraction"] > 0.1, "the clip is as narrow as such ratios are"


# -- sampler and trainer that differ ----------------------------------------------------------------


def test_old_log_probs_are_recomputed_and_corrected_on_request() -> None:
    policy, trees = searched()
    model = other_model(policy, 0.1)
    plain = _learner("RLOO", kl=None)
    batch = plain.prepare(model, plain.experience(trees))
    assert torch.equal(batch.log_probs, plain.experience(trees).log_probs), "only on request"
    corrected = _learner(
        "RLOO", kl=None, recompute_log_probs=True, correction=ImportanceCorrection(high=1.05)
    )
    before = corrected.experience(trees)
    after = corrected.prepare(model, before)
    metrics = corrected.loss(model, after).metrics
    assert metrics["old_kl"] == pytest.approx(0.0, abs=1e-9)
    weights = (after.log_probs - before.log_probs).exp().clamp(max=1.05)
    torch.testing.assert_close(after.advantages, before.advantages * weights * before.action_mask)
    assert after.totals == before.totals, "what a loss is divided by stays the number of actions"


def test_a_correction_without_anything_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match="pass recompute_log_probs=True"):
        _learner("RLOO", correction=ImportanceCorrection())


# -- coefficients, controllers, refusals ------------------------------------------------------------


def test_an_entropy_bonus_can_be_that_of_functional_tokens_alone() -> None:
    policy, trees = searched()
    model = other_model(policy)
    without, functional = (
        _learner("RLOO", kl=None, functional_entropy_coef=coef) for coef in (0.0, 0.7)
    )
    batch = without.experience(trees)
    losses = [learner.loss(model, batch) for learner in (without, functional)]
    entropy = losses[0].metrics["entropy/functional"] * batch.totals.functional_actions
    expected = -0.7 * entropy / batch.totals.sequences
    assert float((losses[1].loss - losses[0].loss).detach()) == pytest.approx(expected, rel=1e-3)


def test_the_adaptive_coefficient_follows_the_kl_and_is_restored() -> None:
    kl = KLPenalty(0.1, "k3", target=0.01, horizon=1000)
    learner = _learner("GRPO", kl=kl)
    learner.after_update({"kl": 0.02, "rollouts": 100.0})
    state = learner.state_dict()
    assert state == {"kl_scale": pytest.approx(1.02)}
    other = _learner("GRPO", kl=kl)
    other.load_state_dict(state)
    assert other.state_dict() == state


def test_a_policy_that_gives_ids_no_probability_is_refused() -> None:
    policy = functional_policy(temperature=0.0)
    assert policy.sampling_params == SamplingParams(temperature=0.0)
    with pytest.raises(ValueError, match=r"temperature=0\.0.*no ratio to learn from"):
        ReinforcePlusPlus(policy, kl_coef=0.0)


def test_kl_without_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="kl needs a reference"):
        GRPO(searched()[0])


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_credit_that_is_not_finite_is_refused_by_name(number: float) -> None:
    policy, _ = searched()
    tree = hand_made([([0], 1.0)], policy, "t7")
    learner = PolicyGradient(policy, lambda trees: [[PathCredit(1, 1.0, (number,), (1.0,))]])
    with pytest.raises(ValueError, match=f"tree 't7', path to node 1, .*its advantage is {number}"):
        learner.experience([tree])


def test_ids_that_the_automaton_forbids_are_refused() -> None:
    policy, _ = searched()
    tree = hand_made([([0], 1.0)], policy, "t7")
    tree.step[1] = attrs.evolve(tree.step[1], ids=(*tree.step[1].ids[:1], 9))  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"sequence 0: id 9 .*log-probability of -inf"):
        _learner("GRPO").experience([tree])


def test_nothing_to_learn_is_an_empty_batch() -> None:
    policy, _ = searched()
    unjudged = hand_made([([0], None), ([1], ABSTAINED)], policy)
    for preset in PRESETS:
        batch = _learner(preset).experience([unjudged])
        assert len(batch) == 0, preset
        assert batch.totals.actions == 0, preset
        assert list(micro_batches(batch, 100)) == []


def test_what_is_left_out_is_logged_in_numbers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rftt")
    policy, _ = searched()
    mixed = hand_made([([0], 1.0), ([1], 0.0), ([2], ABSTAINED)], policy, "mixed")
    equal = hand_made([([0], 1.0), ([1], 1.0)], policy, "equal")
    _learner("GRPO", kl=None, drop_equal_groups=True).experience([mixed, equal])
    logged = [r.getMessage() for r in caplog.records if r.name.startswith("rftt")]
    assert "left out 1 of 5 rollouts: 1 on which the verifier abstained" in logged
    assert "left out 1 of 2 groups: all their rollouts have the same outcome" in logged


def test_credit_is_swapped_by_name() -> None:
    _, trees = searched()
    outcome = _learner("GRPO", kl=None, credit=partial(group_outcome, baseline="leave_one_out"))
    weighted = _learner("GRPO", kl=None, credit=policy_weighted)
    assert not torch.equal(outcome.experience(trees).advantages, weighted.experience(trees).advantages)
