"""Proximal policy optimisation with a critic, on search trees."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import attrs
import torch
from attrs import define, field, validators
from jaxtyping import Float
from torch import Tensor, nn

from rftt.learners.credit.paths import PathCredit
from rftt.learners.credit.policy_weighted import policy_weights
from rftt.learners.credit.rewards import StepRewards, outcome_rewards
from rftt.learners.critic import Critic, clipped_value_loss, values_in_parts
from rftt.learners.experience import Experience
from rftt.learners.forward.parts import log_probs_in_parts
from rftt.learners.forward.score import Packing, score_tokens
from rftt.learners.learner import Learner, LossOutput, TokenPolicy
from rftt.learners.loss.aggregation import token_mean
from rftt.learners.loss.correction import ImportanceCorrection, corrected
from rftt.learners.loss.entropy import entropy_bonus
from rftt.learners.loss.gae import generalized_advantages
from rftt.learners.loss.kl import KLPenalty
from rftt.learners.loss.objectives import Clipped
from rftt.learners.loss.ratios import token_ratio
from rftt.learners.loss.whitening import moments, whiten
from rftt.learners.metrics import token_metrics
from rftt.learners.policy_gradient import check_full_support, with_global_totals
from rftt.learners.reference import Reference
from rftt.learners.rollouts.judged import JudgedRollout, judged_rollouts
from rftt.learners.rollouts.paths import path_experience
from rftt.learners.rollouts.step_ends import at_step_ends
from rftt.search.tree.tree import SearchTree

_log = logging.getLogger(__name__)

_EQUAL: Final = 1e-12
"""Rewards whose variance is no more than this, relative to their square, differ by rounding alone."""

# Of any type, because attrs' stubs take the type of a field's default for that of the field.
_positive_or_none: Any = validators.optional(validators.gt(0))

Weighting = Literal["rollouts", "policy"]
"""How much a rollout counts: as often as it was drawn, or as the policy alone would have drawn it."""


@define(eq=False)
class PPO(Learner):
    """PPO (arXiv 1707.06347): a clipped objective, and advantages by GAE from a critic.

    Each judged rollout is a sequence, and counts as often as it was drawn; what rollouts share is in
    each of their sequences. An action is a token that the policy drew. Defaults are those of TRL's
    ``PPOConfig``, but for ``lam`` and ``critic_learning_rate``, which are OpenRLHF's.

    The gradient is that of the expected reward where rollouts are independent samples of the policy, as
    with best-of-n, ``gamma=1`` and ``lam=1``. A search that sends rollouts where scores were high biases
    counts and with them the gradient: ``weighting="policy"`` takes that out, as far as
    :func:`~rftt.learners.credit.policy_weighted.policy_weighted` does. ``lam`` below 1 adds the bias of
    the critic.

    Attributes:
        policy: what sampled the trees; its temperature and automaton are used again, so that the first
            ratio is exactly 1.
        critic: a value head on the policy's body, or a model of its own.
        reference: the frozen model that KL is measured to; see
            :func:`rftt.learners.reference.frozen_reference`.
        rewards: of each step, earned at its last token.
        weighting: ``"rollouts"`` counts each rollout as often as it was drawn, ``"policy"`` each sampled
            child of a tree once, wherever the search looked.
        kl: the penalty on the KL to the reference. With ``"k1"`` it lowers the reward of each action, as
            in InstructGPT (arXiv 2203.02155) and TRL (coefficient 0.05); else it is a term of the loss.
        gamma: discount for each action. 1 in TRL and OpenRLHF.
        lam: of GAE. 1 in OpenRLHF; TRL and cleanrl have 0.95, with which the outcome of a rollout fades
            to a third within 20 tokens.
        clip_low, clip_high: bounds of the ratio. 0.2 in TRL, OpenRLHF and cleanrl.
        value_clip: how far a value may move from the old one before its gradient ends; ``None`` for no
            bound. 0.2 in TRL and cleanrl, 0.5 in OpenRLHF.
        value_coef: weight of the value loss. 0.1 in TRL, 0.5 in cleanrl.
        whiten: whether advantages are scaled to mean 0 and variance 1 over the actions of the global
            batch, as in TRL, OpenRLHF and cleanrl (there for each minibatch). Where all rewards are
            equal the advantages become 0 and only the critic learns: what would be blown up is the
            critic's error. Without whitening the gradient of such a batch is not 0: the critic's error
            is part of an estimate that is unbiased over all batches.
        entropy_coef, functional_entropy_coef: weights of an entropy bonus at text and at functional
            tokens. 0 in TRL and OpenRLHF, 0.01 in cleanrl.
        correction: weights for a sampler that differs from the trainer; needs ``recompute_log_probs``.
        recompute_log_probs: whether the model that is tuned says anew what the sampled tokens' old
            log-probabilities are.
        target_kl: the rest of an update is skipped when the KL from the policy that sampled (k3, nats a
            token) is above it, as in cleanrl; ``None`` for never, the default of TRL and cleanrl.
        critic_warmup: number of first updates in which only the critic learns, as verl's
            ``critic_warmup``; its gradient then ends at the head.
        critic_learning_rate: of the critic; ``None`` is the model's. 9e-6 in OpenRLHF, for a critic
            model; a value head alone stands 1e-4.
        epochs: how often an experience is learned from. 4 in TRL and cleanrl, 1 in OpenRLHF.
        minibatches: optimizer steps in each epoch. 1 in TRL, 4 in cleanrl.
        packing: how common prefixes are computed; see
            :func:`~rftt.learners.forward.score.score_tokens`.
        micro_batch_tokens: tokens in one forward pass without gradients.

    Raises:
        ValueError: if the policy's sampling parameters give some ids no probability, KL has no
            reference or is of a group's sequences, or a correction has nothing to compare.
    """

    policy: TokenPolicy
    critic: Critic
    reference: Reference | None = None
    rewards: StepRewards = outcome_rewards
    weighting: Weighting = field(default="rollouts", validator=validators.in_(("rollouts", "policy")))
    kl: KLPenalty | None = None
    gamma: float = field(default=1.0, validator=[validators.ge(0), validators.le(1)])
    lam: float = field(default=1.0, validator=[validators.ge(0), validators.le(1)])
    clip_low: float = field(default=0.2, validator=[validators.gt(0), validators.le(1)])
    clip_high: float = field(default=0.2, validator=validators.gt(0))
    value_clip: float | None = field(default=0.2, validator=_positive_or_none)
    value_coef: float = field(default=0.1, validator=validators.gt(0))
    whiten: bool = True
    entropy_coef: float = field(default=0.0, validator=validators.ge(0))
    functional_entropy_coef: float = field(default=0.0, validator=validators.ge(0))
    correction: ImportanceCorrection | None = None
    recompute_log_probs: bool = False
    target_kl: float | None = field(default=None, validator=_positive_or_none)
    critic_warmup: int = field(default=0, validator=validators.ge(0))
    critic_learning_rate: float | None = field(default=9e-6, validator=_positive_or_none)
    epochs: int = field(default=4, validator=validators.ge(1))
    minibatches: int = field(default=1, validator=validators.ge(1))
    packing: Packing = "tree"
    micro_batch_tokens: int = field(default=16384, validator=validators.ge(1))
    _updates: int = field(default=0, init=False)
    _kl_scale: float = field(default=1.0, init=False)
    _explained_variance: float = field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        check_full_support(self.policy)
        if self.kl is not None and self.reference is None:
            raise ValueError("kl needs a reference: PPO(..., reference=frozen_reference(...))")
        if self.kl is not None and self.kl.of_sequence:
            raise ValueError(
                "kl: of_sequence compares the KL of a group's rollouts, and PPO has no groups; drop it"
            )
        if self.correction is not None and not self.recompute_log_probs:
            raise ValueError(
                "correction compares the trainer's log-probabilities with the sampler's: pass "
                "recompute_log_probs=True"
            )

    @torch.no_grad()
    def experience(self, trees: Sequence[SearchTree]) -> Experience:
        """Lay out the judged rollouts. Until :meth:`prepare` there are no values and no advantages, and
        ``returns`` holds the reward of each token."""
        rollouts = judged_rollouts(trees)
        batch = path_experience(
            self.policy, trees, [_no_credit(of_tree, self.weighting) for of_tree in rollouts]
        )
        judged = [rollout for of_tree in rollouts for rollout in of_tree]
        rewards = at_step_ends(
            batch,
            [(rollout.tree, rollout.end) for rollout in judged],
            [self.rewards(rollout) for rollout in judged],
        )
        batch = attrs.evolve(batch, returns=rewards)
        if self.kl is not None:
            assert self.reference is not None
            reference = self._log_probs(self.reference, batch, self.reference.device)
            batch = attrs.evolve(batch, reference_log_probs=reference)
        return with_global_totals(batch)

    @torch.no_grad()
    def prepare(self, model: nn.Module, experience: Experience) -> Experience:
        """Add the critic's values, and the advantages and returns that they give."""
        batch, correction = self._with_old_log_probs(model, experience)
        rewards = batch.returns
        mask = batch.action_mask
        # What the rewards alone would teach.
        to_go = generalized_advantages(rewards, torch.zeros_like(rewards), mask)
        mean, spread = moments(to_go, batch.weights)
        has_signal = spread > _EQUAL * max(mean * mean, 1.0)
        if self.kl is not None and self.kl.estimator == "k1":
            log_ratio = (batch.log_probs - batch.reference_log_probs) * mask
            rewards = rewards - self.kl(log_ratio, batch.functional_mask, self._kl_scale)
        values = values_in_parts(
            self.critic, model, batch, max_tokens=self.micro_batch_tokens, packing=self.packing,
        )  # fmt: skip
        advantages = generalized_advantages(rewards, values, mask, gamma=self.gamma, lam=self.lam)
        returns = (advantages + values) * mask
        _, variance = moments(returns, batch.weights)
        _, unexplained = moments(advantages, batch.weights)
        self._explained_variance = 1 - unexplained / variance if variance > 0 else 0.0
        if self.whiten and has_signal:
            advantages = whiten(advantages, batch.weights)
        elif self.whiten:
            _log.info("all rewards are equal: only the critic learns from this batch")
            advantages = torch.zeros_like(advantages)
        advantages = advantages * correction
        return attrs.evolve(batch, values=values, advantages=advantages, returns=returns)

    def loss(self, model: nn.Module, batch: Experience) -> LossOutput:
        is_warming = self._updates < self.critic_warmup
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_warming):
            scores = score_tokens(
                model, batch, self.policy.automaton, self.policy.sampling_params.temperature,
                entropy=True, hidden=self.critic.uses_hidden, packing=self.packing,
            )  # fmt: skip
        assert scores.entropy is not None
        objective = Clipped(self.clip_low, self.clip_high)
        log_ratio = token_ratio(scores.log_probs, batch)
        per_token = objective(log_ratio, batch.advantages)
        to_reference = None
        if self.kl is not None:
            to_reference = (scores.log_probs - batch.reference_log_probs) * batch.action_mask
            if self.kl.estimator != "k1":
                per_token = per_token + self.kl(to_reference, batch.functional_mask, self._kl_scale)
        per_token = per_token - entropy_bonus(
            scores.entropy, batch, self.entropy_coef, self.functional_entropy_coef
        )
        policy_loss = token_mean(per_token * batch.action_mask, batch)

        values: Tensor = self.critic(batch, scores.hidden)
        per_value, is_clipped = clipped_value_loss(values, batch.values, batch.returns, self.value_clip)
        value_loss = token_mean(per_value, batch)
        loss = self.value_coef * value_loss
        if not is_warming:
            loss = policy_loss + loss
        with torch.no_grad():
            share = token_mean(torch.ones_like(values), batch)
            metrics = token_metrics(batch, log_ratio, scores.entropy, objective, to_reference) | {
                "policy_loss": float(policy_loss),
                "value_loss": float(value_loss),
                "value_clip_fraction": float(token_mean(is_clipped.float(), batch)),
                "value": float(token_mean(values, batch)),
                "return": float(token_mean(batch.returns, batch)),
                # Of the whole batch; each part gives its share of it, so that they add up.
                "explained_variance": self._explained_variance * float(share),
            }
        return LossOutput(loss, metrics)

    def stops_early(self, metrics: Mapping[str, float]) -> bool:
        # A part of which no process has a row has no metrics.
        return self.target_kl is not None and metrics.get("old_kl", 0.0) > self.target_kl

    def after_update(self, metrics: Mapping[str, float]) -> None:
        self._updates += 1
        if self.kl is not None and "kl" in metrics:
            self._kl_scale = self.kl.adapted(self._kl_scale, metrics["kl"], metrics["rollouts"])

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {"critic": self.critic}

    @property
    def learning_rates(self) -> Mapping[str, float]:
        return {} if self.critic_learning_rate is None else {"critic": self.critic_learning_rate}

    def state_dict(self) -> dict[str, Any]:
        return {
            "updates": self._updates,
            "kl_scale": self._kl_scale,
            "explained_variance": self._explained_variance,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._updates = int(state["updates"])
        self._kl_scale = float(state["kl_scale"])
        self._explained_variance = float(state["explained_variance"])

    def _with_old_log_probs(
        self, model: nn.Module, batch: Experience
    ) -> tuple[Experience, Float[Tensor, "batch tokens"]]:
        """Return the batch with the trainer's own log-probabilities, if they are asked for, and what
        each action's advantage is to be multiplied by."""
        if not self.recompute_log_probs:
            return batch, torch.ones_like(batch.log_probs)
        log_probs = self._log_probs(model, batch, next(model.parameters()).device)
        # Not for the weights: what the critic learns and a loss is divided by stays as it is.
        correction = corrected(log_probs, batch, self.correction)
        return attrs.evolve(batch, log_probs=log_probs), correction

    def _log_probs(self, model: Any, batch: Experience, device: torch.device) -> Tensor:
        return log_probs_in_parts(
            model, batch, self.policy.automaton, self.policy.sampling_params.temperature,
            max_tokens=self.micro_batch_tokens, packing=self.packing, device=device,
        )  # fmt: skip


def _no_credit(rollouts: Sequence[JudgedRollout], weighting: Weighting) -> list[PathCredit]:
    """Return the paths of a tree's rollouts with their weights; advantages need the critic."""
    if not rollouts:
        return []
    of = policy_weights(rollouts).of if weighting == "policy" else None
    credits = []
    for rollout in rollouts:
        steps = rollout.tree.depth[rollout.end]
        weight = float(rollout.count) if of is None else of[rollout.end]
        credits.append(PathCredit(rollout.end, rollout.count, [0.0] * steps, [weight] * steps))
    return credits
