"""PPO: generalised advantages, the critic, and what a trained policy comes to."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache, partial
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rftt import (
    Budget,
    Grammar,
    SearchConfig,
    SearchTree,
    Step,
    Verdict,
    run_search,
)
from rftt.learners.credit.rewards import outcome_rewards
from rftt.learners.critic import Critic, HeadCritic, ModelCritic, clipped_value_loss
from rftt.learners.experience import Experience
from rftt.learners.forward.micro_batches import micro_batches, minibatches
from rftt.learners.loss.correction import ImportanceCorrection
from rftt.learners.loss.gae import generalized_advantages
from rftt.learners.loss.kl import KLPenalty
from rftt.learners.ppo import PPO
from rftt.learners.rollouts.judged import JudgedRollout
from rftt.problems.problem import Problem
from rftt.search.strategies import MCTS, BestOfN
from rftt.testing import FiniteModel, FinitePolicy, FiniteProblem, Reply
from rftt.testing.finite.gradient import expected_reward
from rftt.testing.finite.model import trained_policy
from rftt.testing.learner.check import check_learner
from rftt.tokens.grammar import Function
from rftt.verifiers.value import ValueModel
from tests.learners.finite_bodies import head_critic, model_critic
from tests.models import functional_policy

GRAMMAR = Grammar(
    [Function("think", "think"), Function("end", "end")],
    start=("think", "end"),
    followers={"think": ("think", "end")},
)
TABLE = {
    (): [Reply("think", "a", 0.25), Reply("end", "no", 0.75)],
    ("a",): [Reply("end", "yes", 0.5), Reply("end", "maybe", 0.5)],
}
SCORES = {("no",): 0.25, ("a", "yes"): 1.0, ("a", "maybe"): 0.0}


def _problem() -> FiniteProblem:
    return FiniteProblem(FinitePolicy(GRAMMAR, TABLE), {p: Verdict(s) for p, s in SCORES.items()})


def _tree(paths: Sequence[Sequence[str]], scores: dict[tuple[str, ...], float] = SCORES) -> SearchTree:
    """A tree in which these paths were drawn, equal ones as one node."""
    policy = FinitePolicy(GRAMMAR, TABLE)
    tree = SearchTree(Problem("p", "what is it?"), GRAMMAR)
    for path in paths:
        node = 0
        for depth, text in enumerate(path):
            before = tuple(path[:depth])
            found = [child for child in tree.children[node] if tree.text(child) == text]
            reply = next(r for r in TABLE[before] if r.text == text)
            ids = policy.ids(reply)
            step = Step(
                reply.function, text, ids, (math.log(reply.probability),), (True,) * len(ids),
                terminal=depth == len(path) - 1,
            )  # fmt: skip
            node = found[0] if found else tree.attach(node, step)
        score = scores[tuple(path)]
        tree.verdict[node] = Verdict(score)
        tree.backup(node, score)
    return tree


def _gradient(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
            for p in model.parameters()
        ]
    )


# -- generalised advantages -----------------------------------------------------------------------

numbers = st.integers(-8, 8).map(lambda n: Fraction(n, 4))
# With such factors and at most six actions every number is exact in single precision.
factors = st.sampled_from([Fraction(0), Fraction(1, 2), Fraction(1)])


@st.composite
def _rows(draw: st.DrawFn) -> list[list[tuple[Fraction, Fraction, bool]]]:
    width = draw(st.integers(1, 6))
    token = st.tuples(numbers, numbers, st.booleans())
    return draw(st.lists(st.lists(token, min_size=width, max_size=width), min_size=1, max_size=3))


def _brute_force(
    row: list[tuple[Fraction, Fraction, bool]], gamma: Fraction, lam: Fraction
) -> list[Fraction]:
    """Equation 16 as it is written, over the actions alone."""
    actions = [t for t, (_, _, is_action) in enumerate(row) if is_action]
    rewards, values = [], []
    for k, t in enumerate(actions):
        end = actions[k + 1] if k + 1 < len(actions) else len(row)
        rewards.append(sum((row[place][0] for place in range(t, end)), Fraction(0)))
        values.append(row[t][1])
    values.append(Fraction(0))
    deltas = [rewards[k] + gamma * values[k + 1] - values[k] for k in range(len(actions))]
    result = [Fraction(0)] * len(row)
    for k, t in enumerate(actions):
        result[t] = sum(
            ((gamma * lam) ** later * deltas[k + later] for later in range(len(actions) - k)),
            Fraction(0),
        )
    return result


@given(_rows(), factors, factors)
def test_advantages_are_the_sum_that_defines_them(
    rows: list[list[tuple[Fraction, Fraction, bool]]], gamma: Fraction, lam: Fraction
) -> None:
    def column(index: int) -> torch.Tensor:
        return torch.tensor([[float(token[index]) for token in row] for row in rows])

    found = generalized_advantages(
        column(0), column(1), column(2).bool(), gamma=float(gamma), lam=float(lam)
    )
    assert found.dtype == torch.float32
    expected = [[float(a) for a in _brute_force(row, gamma, lam)] for row in rows]
    assert found.tolist() == expected


def test_forced_ids_pass_rewards_back_and_are_no_time_steps() -> None:
    rewards = torch.tensor([[9.0, 0.0, 1.0, 4.0, 0.0]])
    values = torch.tensor([[7.0, 0.5, 8.0, 0.25, 6.0]])
    actions = torch.tensor([[False, True, False, True, False]])
    found = generalized_advantages(rewards, values, actions, gamma=0.5, lam=1.0)
    # Actions at 1 and 3 with rewards 1 and 4; the 9 came before any action.
    second = 4.0 - 0.25
    first = 1.0 + 0.5 * 0.25 - 0.5 + 0.5 * second
    assert found.tolist() == [[0.0, first, 0.0, second, 0.0]]


@given(_rows())
def test_without_discounts_they_are_returns_less_values(
    rows: list[list[tuple[Fraction, Fraction, bool]]],
) -> None:
    rewards, values, mask = (
        torch.tensor([[float(t[i]) for t in row] for row in rows]) for i in range(3)
    )
    found = generalized_advantages(rewards, values, mask.bool())
    to_go = rewards.flip(1).cumsum(1).flip(1)
    assert torch.equal(found, (to_go - values) * mask)


def test_the_value_clip_by_hand() -> None:
    values = torch.tensor([[1.0, 1.0, 0.1, 1.0]], requires_grad=True)
    old = torch.tensor([[0.0, 0.0, 0.0, 0.9]])
    returns = torch.tensor([[2.0, 0.0, 1.0, 2.0]])
    loss, is_clipped = clipped_value_loss(values, old, returns, 0.25)
    # Bounded to 0.25, 0.25, 0.1 and 1: errors (1, 1.75), (1, 0.25), (0.9, 0.9), (1, 1).
    expected = torch.tensor([[1.75**2 / 2, 0.5, 0.9**2 / 2, 0.5]])
    torch.testing.assert_close(loss, expected)
    assert is_clipped.tolist() == [[True, False, False, False]]
    loss.sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([[0.0, 1.0, -0.9, -1.0]]))
    unbounded, nowhere = clipped_value_loss(values, old, returns, None)
    torch.testing.assert_close(unbounded, (values - returns).square() / 2)
    assert not nowhere.any()


# -- experience and advantages of trees -------------------------------------------------------------


def test_rewards_are_at_last_ids_and_each_rollout_counts() -> None:
    problem = _problem()
    model = FiniteModel(problem.policy)
    tree = _tree([("a", "yes"), ("a", "yes"), ("a", "maybe"), ("no",)])
    learner = PPO(problem.policy, head_critic(model), gamma=0.5, whiten=False)
    batch = learner.experience([tree])
    assert batch.returns.tolist() == [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.25, 0.0]]
    assert batch.weights.tolist() == [[0.0, 2.0, 2.0], [0.0, 1.0, 1.0], [0.0, 1.0, 0.0]]
    assert (batch.totals.actions, batch.totals.sequences) == (7.0, 4.0)
    prepared = learner.prepare(model, batch)
    # The critic begins at 0, so that advantages are discounted returns.
    assert prepared.advantages.tolist() == [[0.0, 0.5, 1.0], [0.0, 0.0, 0.0], [0.0, 0.25, 0.0]]
    assert torch.equal(prepared.returns, prepared.advantages)


def test_a_policys_weighting_counts_each_sampled_child_once() -> None:
    problem = _problem()
    tree = _tree([("a", "yes"), ("a", "maybe"), ("a", "maybe"), ("no",)])
    learner = PPO(problem.policy, head_critic(FiniteModel(problem.policy)), weighting="policy")
    weights = learner.experience([tree]).weights
    # a and no were each drawn once, so 1/2 each; below a three draws: 1/6 and 2/6.
    torch.testing.assert_close(
        weights, torch.tensor([[0, 1 / 6, 1 / 6], [0, 1 / 3, 1 / 3], [0, 0.5, 0]])
    )


def _set_values(critic: Critic, model: FiniteModel, values: dict[tuple[int, ...], float]) -> None:
    head = critic.head if isinstance(critic, HeadCritic) else critic.model.head  # type: ignore[union-attr]
    with torch.no_grad():
        for prefix, value in values.items():
            head.weight[model.prefixes.index(prefix)] = value  # type: ignore[index]


@pytest.mark.parametrize("make", [head_critic, model_critic])
@pytest.mark.parametrize("packing", ["tree", "none"])
def test_values_are_those_of_the_state_before_each_action(make: Any, packing: Any) -> None:
    problem = _problem()
    model = FiniteModel(problem.policy)
    critic = make(model)
    think = problem.policy.ids(TABLE[()][0])
    _set_values(critic, model, {(0,): 0.5, (0, *think): 0.75})
    learner = PPO(problem.policy, critic, whiten=False, packing=packing)
    prepared = learner.prepare(model, learner.experience([_tree([("a", "yes"), ("no",)])]))
    assert prepared.values.tolist() == [[0.0, 0.5, 0.75], [0.0, 0.5, 0.0]]
    assert prepared.advantages.tolist() == [[0.0, 0.5, 0.25], [0.0, -0.25, 0.0]]
    assert prepared.returns.tolist() == [[0.0, 1.0, 1.0], [0.0, 0.25, 0.0]]
    output = learner.loss(model, prepared)
    # Three actions: returns 1, 1, 1/4, errors 1/2, 1/4, -1/4.
    returns, errors = [1.0, 1.0, 0.25], [0.5, 0.25, -0.25]
    explained = 1 - _variance(errors) / _variance(returns)
    assert output.metrics["explained_variance"] == pytest.approx(explained)
    assert output.metrics["value_loss"] == pytest.approx(sum(e * e for e in errors) / 6)
    assert output.metrics["policy_loss"] == pytest.approx(-sum(errors) / 3)
    assert output.metrics["old_kl"] == pytest.approx(0.0, abs=1e-6)


def _variance(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)


def test_whitened_advantages_and_equal_rewards() -> None:
    problem = _problem()
    model = FiniteModel(problem.policy)
    critic = head_critic(model)
    think = problem.policy.ids(TABLE[()][0])
    _set_values(critic, model, {(0, *think): 0.5})
    learner = PPO(problem.policy, critic)
    prepared = learner.prepare(model, learner.experience([_tree([("a", "yes"), ("no",)])]))
    advantages = prepared.advantages[prepared.action_mask]
    # 1, 1/2 and 1/4: mean 7/12, variance 7/72.
    expected = [(a - 7 / 12) / (7 / 72) ** 0.5 for a in (1.0, 0.5, 0.25)]
    assert advantages.tolist() == pytest.approx(expected, rel=1e-5)
    equal = dict.fromkeys(SCORES, 1.0)
    batch = learner.experience([_tree([("a", "yes"), ("a", "maybe"), ("no",)], equal)])
    prepared = learner.prepare(model, batch)
    assert not prepared.advantages.any(), "the critic's error is no signal"
    assert prepared.returns[prepared.action_mask].tolist() == [1.0] * 5
    output = learner.loss(model, prepared)
    output.loss.backward()
    assert not model.table.grad.any()  # type: ignore[union-attr]
    assert critic.head.weight.grad.any()  # type: ignore[union-attr]


def test_kl_in_the_reward_is_paid_by_the_action_that_earned_it() -> None:
    problem = _problem()
    model = FiniteModel(problem.policy)
    reference = copy.deepcopy(model)
    with torch.no_grad():
        reference.table.add_(torch.randn(reference.table.shape, generator=torch.manual_seed(0)))
    learner = PPO(
        problem.policy, head_critic(model), reference, kl=KLPenalty(0.5, "k1"), whiten=False  # type: ignore[arg-type]
    )  # fmt: skip
    batch = learner.experience([_tree([("a", "yes"), ("no",)])])
    gap = (batch.log_probs - batch.reference_log_probs) * batch.action_mask
    assert gap.abs().max() > 0.1
    rewards = batch.returns - 0.5 * gap
    prepared = learner.prepare(model, batch)
    torch.testing.assert_close(
        prepared.advantages, rewards.flip(1).cumsum(1).flip(1) * batch.action_mask
    )


def test_an_empty_experience_stays_empty() -> None:
    problem = _problem()
    model = FiniteModel(problem.policy)
    learner = PPO(problem.policy, head_critic(model))
    batch = learner.experience([SearchTree(Problem("p", "what?"), GRAMMAR)])
    assert len(learner.prepare(model, batch)) == 0
    assert batch.totals.actions == 0


# -- the update ---------------------------------------------------------------------------------------


def test_critic_warmup_leaves_the_policy_alone() -> None:
    problem = _problem()
    model = FiniteModel(problem.policy)
    critic = head_critic(model)
    learner = PPO(problem.policy, critic, critic_warmup=2)
    batch = learner.prepare(model, learner.experience([_tree([("a", "yes"), ("no",)])]))
    moved = []
    for _ in range(3):
        model.zero_grad()
        critic.zero_grad()
        learner.loss(model, batch).loss.backward()
        assert _gradient(critic).any()
        moved.append(bool(_gradient(model).any()))
        learner.after_update({"rollouts": 2.0})
    assert moved == [False, False, True]
    again = PPO(problem.policy, critic, critic_warmup=2)
    again.load_state_dict({**again.state_dict(), "updates": 1})
    model.zero_grad()
    again.loss(model, batch).loss.backward()
    assert not _gradient(model).any()
    again.load_state_dict(learner.state_dict())
    again.loss(model, batch).loss.backward()
    assert _gradient(model).any()


def test_it_stops_early_by_kl() -> None:
    problem = _problem()
    model = FiniteModel(problem.policy)
    learner = PPO(problem.policy, head_critic(model), target_kl=0.05)
    batch = learner.prepare(model, learner.experience([_tree([("a", "yes"), ("no",)])]))
    assert not learner.stops_early(learner.loss(model, batch).metrics)
    with torch.no_grad():
        model.table[model.prefixes.index((0,))] *= 3.0
    moved = learner.loss(model, batch).metrics
    assert moved["old_kl"] > 0.05
    assert learner.stops_early(moved)
    assert not PPO(problem.policy, head_critic(model)).stops_early(moved)


def test_what_has_nothing_to_go_by_is_refused() -> None:
    problem = _problem()
    with pytest.raises(ValueError, match="kl needs a reference"):
        PPO(problem.policy, head_critic(FiniteModel(problem.policy)), kl=KLPenalty())
    model = FiniteModel(problem.policy)
    of_groups = KLPenalty(estimator="k1", of_sequence=True)
    with pytest.raises(ValueError, match="PPO has no groups"):
        PPO(problem.policy, head_critic(model), model, kl=of_groups)  # type: ignore[arg-type]
    for wrong, message in (([math.nan, 0.0], "not finite"), ([1.0], "1 numbers for 2 steps")):
        learner = PPO(
            problem.policy,
            head_critic(FiniteModel(problem.policy)),
            rewards=lambda _, wrong=wrong: wrong,  # type: ignore[misc]
        )
        with pytest.raises(ValueError, match=message):
            learner.experience([_tree([("a", "yes")])])
    with pytest.raises(ValueError, match="'lam' must be <= 1"):
        PPO(problem.policy, head_critic(FiniteModel(problem.policy)), lam=1.5)


def test_a_correction_weighs_advantages_by_the_mismatch() -> None:
    problem = _problem()
    model = FiniteModel(problem.policy)
    tree = _tree([("a", "yes"), ("no",)])
    think = problem.policy.ids(TABLE[()][0])[0]
    with torch.no_grad():
        # think: 1/4 to 1/2, so that the trainer's probabilities are 2 and 2/3 times the sampler's.
        model.table[model.prefixes.index((0,)), think] += math.log(3.0)
    learner = PPO(
        problem.policy, head_critic(model), whiten=False, recompute_log_probs=True,
        correction=ImportanceCorrection(high=1.5),
    )  # fmt: skip
    batch = learner.experience([tree])
    prepared = learner.prepare(model, batch)
    expected = torch.tensor([[0.0, 1.5, 1.0], [0.0, 0.25 * 2 / 3, 0.0]])
    torch.testing.assert_close(prepared.advantages, expected)
    torch.testing.assert_close(prepared.returns, torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.25, 0.0]]))
    assert torch.equal(prepared.weights, batch.weights)
    assert learner.loss(model, prepared).metrics["old_kl"] == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match="recompute_log_probs=True"):
        PPO(problem.policy, head_critic(model), correction=ImportanceCorrection())


# -- a real model ---------------------------------------------------------------------------------------


@cache
def _real() -> tuple[Any, Any, list[SearchTree]]:
    """A policy, its model, and trees as it might have sampled them, but for their log-probabilities."""
    policy = functional_policy()
    opener, closer = policy.tokens.openers, policy.tokens.closers

    def step(function: str, *body: int) -> Step:
        ids = (opener[function], *body, closer[function])
        terminal = function == "output"
        return Step(function, "x", ids, (-2.0,) * len(ids), (True,) * len(ids), terminal=terminal)

    trees = []
    for number in range(2):
        tree = SearchTree(Problem(f"p{number}", f"{number}+3", "1"), policy.grammar)
        for first in (4, 5 + number):
            node = tree.attach(tree.attach(0, step("analysis", 3, first)), step("next_step", 7))
            for body, score in (((9,), 1.0), ((9, 8, 12 + number), 0.0), ((10 + first,), 0.5)):
                end = tree.attach(node, step("output", *body))
                tree.verdict[end] = Verdict(score)
                tree.backup(end, score)
        trees.append(tree)
    return policy, policy.sampler.model, trees  # type: ignore[attr-defined]


def _critics(model: Any) -> list[Critic]:
    torch.manual_seed(3)
    critics: list[Critic] = [
        HeadCritic(32),
        HeadCritic(32, detach=True),
        ModelCritic(ValueModel.of_causal_lm(model)),
    ]
    for critic in critics:
        head = critic.head if isinstance(critic, HeadCritic) else critic.model.head  # type: ignore[union-attr]
        torch.nn.init.normal_(head.weight, std=0.1)  # type: ignore[arg-type]
    return critics


@pytest.mark.parametrize("number", [0, 1, 2])
def test_packing_splitting_and_order_change_nothing(number: int) -> None:
    policy, model, trees = _real()
    critic = _critics(model)[number]
    found = []
    for packing in ("tree", "none"):
        learner = PPO(policy, critic, lam=0.95, packing=packing)
        if isinstance(critic, ModelCritic):
            critic.packing = packing
        batch = learner.prepare(model, learner.experience(trees))
        assert batch.values.abs().max() > 1e-3
        shuffled = batch.select(torch.randperm(len(batch), generator=torch.manual_seed(0)))
        for parts in ([batch], [shuffled], list(micro_batches(batch, 30))):
            model.zero_grad()
            critic.zero_grad()
            metrics: dict[str, float] = {}
            for part in parts:
                output = learner.loss(model, part)
                output.loss.backward()
                for name, value in output.metrics.items():
                    metrics[name] = metrics.get(name, 0.0) + value
            found.append((metrics, _gradient(model), _gradient(critic)))
        assert len(parts) > 1
    metrics, gradient, of_critic = found[0]
    assert abs(metrics["explained_variance"]) > 0.01
    assert gradient.abs().max() > 1e-4
    assert of_critic.abs().max() > 1e-4
    for other_metrics, other, other_critic in found[1:]:
        assert other_metrics == pytest.approx(metrics, abs=1e-4)
        torch.testing.assert_close(other, gradient, atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(other_critic, of_critic, atol=1e-5, rtol=1e-3)


def test_detached_or_apart_a_critic_gives_the_policy_no_gradient() -> None:
    policy, model, trees = _real()
    reached = []
    for critic in _critics(model):
        learner = PPO(policy, critic)
        batch = learner.prepare(model, learner.experience(trees))
        batch = attrs.evolve(batch, advantages=torch.zeros_like(batch.advantages))
        model.zero_grad()
        critic.zero_grad()
        learner.loss(model, batch).loss.backward()
        reached.append(bool(_gradient(model).any()))
        assert _gradient(critic).any()
    assert reached == [True, False, False]
    critic = _critics(model)[0]
    learner = PPO(policy, critic, critic_warmup=1)
    batch = learner.prepare(model, learner.experience(trees))
    model.zero_grad()
    learner.loss(model, batch).loss.backward()
    assert not _gradient(model).any(), "the body is spared while the critic warms up"


@pytest.mark.parametrize("autocast", [False, True])
def test_everything_but_the_model_is_single_precision(autocast: bool) -> None:
    policy, model, trees = _real()
    if not autocast:
        model = copy.deepcopy(model).bfloat16()
    for critic in _critics(model):
        if not autocast:
            critic = critic.bfloat16()
        learner = PPO(policy, critic)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            batch = learner.prepare(model, learner.experience(trees))
            output = learner.loss(model, batch)
        for name in ("values", "advantages", "returns"):
            assert getattr(batch, name).dtype == torch.float32
        assert output.loss.dtype == torch.float32
        assert math.isfinite(float(output.loss.detach()))
        output.loss.backward()
        assert _gradient(model).isfinite().all()


# -- learning -------------------------------------------------------------------------------------------


def _negated(rollout: JudgedRollout) -> list[float]:
    return [-reward for reward in outcome_rewards(rollout)]


def _train(learner: PPO, model: FiniteModel, problem: FiniteProblem, updates: int) -> None:
    """The loop of a trainer, on the policy that the model is now."""
    optimizer = torch.optim.Adam(
        [
            {"params": model.parameters(), "lr": 0.1},
            {"params": learner.critic.parameters(), "lr": 0.05},
        ]
    )
    for update in range(updates):
        policy = trained_policy(problem.policy, model)  # type: ignore[arg-type]
        config = SearchConfig(Budget(rollouts=16), seed=update)
        trees = run_search(problem.problems(2), BestOfN(), policy, problem.verifier, config)
        experience = learner.prepare(model, learner.experience(trees))
        metrics: dict[str, float] = {}
        parts: list[Experience] = [
            part
            for epoch in range(learner.epochs)
            for part in minibatches(experience, learner.minibatches, epoch)
        ]
        for part in parts:
            optimizer.zero_grad()
            metrics = {}
            for micro_batch in micro_batches(part, 10_000):
                output = learner.loss(model, micro_batch)
                output.loss.backward()
                for name, value in output.metrics.items():
                    metrics[name] = metrics.get(name, 0.0) + value
            if learner.stops_early(metrics):
                break
            optimizer.step()
        learner.after_update(metrics)


def test_it_reaches_the_optimum_and_not_with_the_sign_flipped() -> None:
    problem = _problem()
    rewards = {}
    for sign, step_rewards in ((1, outcome_rewards), (-1, _negated)):
        model = FiniteModel(problem.policy)
        learner = PPO(
            problem.policy,
            head_critic(model),
            rewards=step_rewards,
            lam=0.95,
            epochs=2,
            minibatches=2,
            target_kl=0.5,
        )
        _train(learner, model, problem, 25)
        rewards[sign] = float(expected_reward(model, problem).detach())
    assert rewards[1] > 0.95, "the best leaf is worth 1, the policy began at 0.3125"
    assert rewards[-1] < 0.1, "the worst is worth 0"


@pytest.mark.parametrize("make", [head_critic, model_critic])
def test_the_critic_learns_the_values_and_explains_returns(make: Any) -> None:
    problem = _problem()
    model = FiniteModel(problem.policy)
    critic = make(model)
    learner = PPO(problem.policy, critic, critic_warmup=1, value_clip=None, value_coef=1.0)
    config = SearchConfig(Budget(rollouts=300))
    trees = run_search(problem.problems(), BestOfN(), problem.policy, problem.verifier, config)
    rollouts = learner.experience(trees)
    batch = learner.prepare(model, rollouts)
    before = learner.loss(model, batch).metrics
    assert before["explained_variance"] == pytest.approx(0.0, abs=1e-6)
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        learner.loss(model, batch).loss.backward()
        optimizer.step()
    batch = learner.prepare(model, rollouts)
    two_steps = batch.action_mask[:, 2].nonzero()[0, 0]
    # V(question) = 3/4 * 1/4 + 1/4 * 1/2; V(a) = 1/2.
    assert batch.values[two_steps].tolist() == pytest.approx([0.0, 0.3125, 0.5], abs=0.1)
    # An action's return is 1/4 with weight 3/4, and 1 and 0 with 1/4 each: variance 0.115. Less the
    # values: -1/16 with weight 3/4; 11/16, 1/2, -5/16, -1/2 with 1/8 each: variance 7/64.
    explained = learner.loss(model, batch).metrics["explained_variance"]
    assert explained == pytest.approx(1 - (7 / 64) / 0.115, abs=0.04)


# -- the contract ---------------------------------------------------------------------------------------


def _with_head(policy: Any, reference: Any, **settings: Any) -> PPO:
    return PPO(policy, head_critic(reference), reference, **settings)


def _with_model(policy: Any, reference: Any, **settings: Any) -> PPO:
    return PPO(policy, model_critic(reference), reference, **settings)


@pytest.mark.parametrize(
    "build",
    [
        partial(_with_head, lam=0.95, kl=KLPenalty(0.05, "k1")),
        partial(_with_model, kl=KLPenalty(0.05, "k3"), recompute_log_probs=True),
    ],
    ids=["head", "model"],
)
def test_it_keeps_a_learners_promises(build: Any) -> None:
    check_learner(build)


@pytest.mark.slow
def test_with_the_policys_weighting_a_search_may_look_where_it_likes() -> None:
    check_learner(
        partial(_with_head, weighting="policy"),
        searchers=[MCTS(expansion="sample", width=width) for width in (2, 8)],
    )
