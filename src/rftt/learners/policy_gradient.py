"""One policy-gradient learner: credit, ratio, objective, aggregation and KL are passed in."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from attrs import define, field, frozen, validators
from jaxtyping import Float
from torch import Tensor, nn

from rftt.learners.credit.paths import Credit, PathCredit
from rftt.learners.distributed import global_sum
from rftt.learners.experience import BatchTotals, Experience
from rftt.learners.forward.parts import log_probs_in_parts
from rftt.learners.forward.score import Packing, score_tokens
from rftt.learners.learner import Learner, LossOutput, TokenPolicy
from rftt.learners.loss.aggregation import Aggregation, token_mean
from rftt.learners.loss.correction import ImportanceCorrection, corrected
from rftt.learners.loss.entropy import entropy_bonus
from rftt.learners.loss.kl import KLPenalty
from rftt.learners.loss.objectives import Clipped, Objective
from rftt.learners.loss.ratios import Ratio, token_ratio
from rftt.learners.loss.whitening import moments, whiten
from rftt.learners.metrics import token_metrics
from rftt.learners.reference import Reference
from rftt.learners.rollouts.judged import equal_outcomes, judged_rollouts
from rftt.learners.rollouts.paths import path_experience
from rftt.search.tree.tree import SearchTree

_log = logging.getLogger(__name__)


@define
class _Scale:
    """What an adaptive KL controller multiplies its coefficient by."""

    value: float = 1.0


@frozen(eq=False)
class PolicyGradient(Learner):
    """Policy gradient on search trees, without a critic.

    :mod:`rftt.learners.presets` has the settings of published methods; each choice is a function.

    Attributes:
        policy: what sampled the trees; its temperature and automaton are used again, so that the first
            ratio is exactly 1.
        credit: from trees to an advantage and a weight for each step; see :mod:`rftt.learners.credit`.
        reference: the frozen model that KL is measured to; see
            :func:`rftt.learners.reference.frozen_reference`.
        ratio: of a token or of a sequence; see :mod:`rftt.learners.loss.ratios`.
        objective: see :mod:`rftt.learners.loss.objectives`.
        aggregation: see :mod:`rftt.learners.loss.aggregation`.
        kl: the penalty on the KL to the reference; ``None`` for none.
        whiten: whether advantages are scaled to mean 0 and variance 1 over the global batch. Where all
            credit is equal they become 0, whatever the KL says.
        drop_equal_groups: whether trees whose rollouts all have the same outcome are left out.
        correction: weights for a sampler that differs from the trainer; needs ``recompute_log_probs``.
        recompute_log_probs: whether the model that is tuned says anew what the sampled tokens' old
            log-probabilities are, at the price of one forward pass.
        entropy_coef, functional_entropy_coef: weights of an entropy bonus at text and at functional
            tokens.
        epochs, minibatches: see :class:`~rftt.learners.learner.Learner`.
        packing: how common prefixes are computed; see
            :func:`~rftt.learners.forward.score.score_tokens`.
        micro_batch_tokens: tokens in one forward pass without gradients.

    Raises:
        ValueError: if the policy's sampling parameters give some ids no probability, KL has no
            reference, or a correction has nothing to compare.
    """

    policy: TokenPolicy
    credit: Credit
    reference: Reference | None = None
    ratio: Ratio = token_ratio
    objective: Objective = field(factory=Clipped)
    aggregation: Aggregation = token_mean
    kl: KLPenalty | None = None
    whiten: bool = False
    drop_equal_groups: bool = False
    correction: ImportanceCorrection | None = None
    recompute_log_probs: bool = False
    entropy_coef: float = field(default=0.0, validator=validators.ge(0))
    functional_entropy_coef: float = field(default=0.0, validator=validators.ge(0))
    epochs: int = field(default=1, validator=validators.ge(1))
    minibatches: int = field(default=1, validator=validators.ge(1))
    packing: Packing = "tree"
    micro_batch_tokens: int = field(default=16384, validator=validators.ge(1))
    _kl_scale: _Scale = field(factory=_Scale, init=False)

    def __attrs_post_init__(self) -> None:
        check_full_support(self.policy)
        if self.kl is not None and self.reference is None:
            raise ValueError(
                "kl needs a reference: PolicyGradient(..., reference=frozen_reference(...))"
            )
        if self.correction is not None and not self.recompute_log_probs:
            raise ValueError(
                "correction compares the trainer's log-probabilities with the sampler's: pass "
                "recompute_log_probs=True"
            )

    @torch.no_grad()
    def experience(self, trees: Sequence[SearchTree]) -> Experience:
        credits = self.credit(trees)
        if self.drop_equal_groups:
            credits = _without_equal_groups(trees, credits)
        batch = path_experience(self.policy, trees, credits)
        if self.kl is not None:
            assert self.reference is not None
            reference = self._log_probs(self.reference, batch, self.reference.device)
            batch = attrs.evolve(batch, reference_log_probs=reference)
        advantages = batch.advantages
        if self.kl is not None and self.kl.estimator == "k1":
            groups = [number for number, paths in enumerate(credits) for _ in paths]
            advantages = advantages - self._kl_to_go(batch, torch.tensor(groups, dtype=torch.int64))
        if self.whiten:
            mean, variance = moments(batch.advantages, batch.weights)
            has_signal = variance > 1e-12 * max(mean * mean, 1.0)
            advantages = whiten(advantages, batch.weights) if has_signal else advantages * 0
        return with_global_totals(attrs.evolve(batch, advantages=advantages * batch.action_mask))

    @torch.no_grad()
    def prepare(self, model: nn.Module, experience: Experience) -> Experience:
        if not self.recompute_log_probs:
            return experience
        log_probs = self._log_probs(model, experience, next(model.parameters()).device)
        correction = corrected(log_probs, experience, self.correction)
        # Not the weights: what a loss is divided by stays the number of actions.
        advantages = experience.advantages * correction
        return attrs.evolve(experience, log_probs=log_probs, advantages=advantages)

    def loss(self, model: nn.Module, batch: Experience) -> LossOutput:
        scores = score_tokens(
            model, batch, self.policy.automaton, self.policy.sampling_params.temperature,
            entropy=True, packing=self.packing,
        )  # fmt: skip
        assert scores.entropy is not None
        log_ratio = self.ratio(scores.log_probs, batch)
        per_token = self.objective(log_ratio, batch.advantages)
        to_reference = (scores.log_probs - batch.reference_log_probs) * batch.action_mask
        if self.kl is not None and self.kl.estimator != "k1":
            per_token = per_token + self.kl(to_reference, batch.functional_mask, self._kl_scale.value)
        per_token = per_token - entropy_bonus(
            scores.entropy, batch, self.entropy_coef, self.functional_entropy_coef
        )
        loss = self.aggregation(per_token * batch.action_mask, batch)
        metrics = token_metrics(
            batch, log_ratio, scores.entropy, self.objective,
            to_reference if self.kl is not None else None,
        )  # fmt: skip
        return LossOutput(loss, metrics)

    def after_update(self, metrics: Mapping[str, float]) -> None:
        if self.kl is not None and "kl" in metrics:
            self._kl_scale.value = self.kl.adapted(
                self._kl_scale.value, metrics["kl"], metrics["rollouts"]
            )

    def state_dict(self) -> dict[str, Any]:
        return {"kl_scale": self._kl_scale.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._kl_scale.value = float(state["kl_scale"])

    def _log_probs(
        self, model: nn.Module | Reference, batch: Experience, device: torch.device
    ) -> Float[Tensor, "batch tokens"]:
        return log_probs_in_parts(
            model, batch, self.policy.automaton, self.policy.sampling_params.temperature,
            max_tokens=self.micro_batch_tokens, packing=self.packing, device=device,
        )  # fmt: skip

    def _kl_to_go(self, batch: Experience, groups: Tensor) -> Float[Tensor, "batch tokens"]:
        """Return what the KL takes from each action's return."""
        assert self.kl is not None
        log_ratio = (batch.log_probs - batch.reference_log_probs) * batch.action_mask
        penalty = self.kl(log_ratio, batch.functional_mask, self._kl_scale.value)
        if not self.kl.of_sequence:
            return penalty.flip(1).cumsum(1).flip(1)
        totals = penalty.sum(1)
        size = int(groups.max()) + 1 if len(groups) else 0
        sums = totals.new_zeros(size).index_add(0, groups, totals * batch.counts)
        counts = totals.new_zeros(size).index_add(0, groups, batch.counts)
        others = (counts[groups] - 1).clamp(min=1)
        baseline = (sums[groups] - totals) / others
        return torch.where(counts[groups] > 1, totals - baseline, 0.0)[:, None].expand_as(penalty)


def check_full_support(policy: TokenPolicy) -> None:
    """Raise ``ValueError`` if the policy gives ids no probability: there would be no ratio."""
    if not (params := policy.sampling_params).has_full_support:
        raise ValueError(
            f"the policy samples with {params}, which gives some ids no probability, so that there "
            "is no ratio to learn from: give its sampler a temperature above 0, top_p=1 and min_p=0"
        )


def with_global_totals(batch: Experience) -> Experience:
    """Return the batch with the sums of its totals over all processes."""
    local = batch.with_totals().totals
    return attrs.evolve(batch, totals=BatchTotals(*global_sum(attrs.astuple(local))))


def _without_equal_groups(
    trees: Sequence[SearchTree], credits: Sequence[list[PathCredit]]
) -> list[list[PathCredit]]:
    """Return the credits, none for trees whose judged rollouts all have the same outcome."""
    equal = [equal_outcomes(rollouts) for rollouts in judged_rollouts(trees, log=False)]
    if left_out := sum(bool(paths) and same for paths, same in zip(credits, equal, strict=True)):
        _log.info(
            "left out %d of %d groups: all their rollouts have the same outcome", left_out, len(trees)
        )
    return [[] if same else paths for paths, same in zip(credits, equal, strict=True)]
