"""Published policy-gradient methods as settings of one learner. ``docs/learners.md`` compares them.

Each takes the policy that samples, the frozen reference if there is a KL penalty (``kl_coef=0`` does
without), and any setting of :class:`~rftt.learners.policy_gradient.PolicyGradient` instead of its own:
``GRPO(policy, reference, credit=policy_weighted)``.
"""
# Their names are those of the papers.
# ruff: noqa: N802

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from rftt.learners.credit.outcome import group_outcome
from rftt.learners.credit.rewards import outcome_rewards, overlong_penalty
from rftt.learners.learner import TokenPolicy
from rftt.learners.loss.aggregation import ConstantLength, sequence_mean, token_mean
from rftt.learners.loss.kl import KLPenalty
from rftt.learners.loss.objectives import CISPO as _CISPO
from rftt.learners.loss.objectives import Clipped, plain
from rftt.learners.loss.ratios import sequence_ratio
from rftt.learners.policy_gradient import PolicyGradient
from rftt.learners.reference import Reference


def ReinforcePlusPlus(
    policy: TokenPolicy, reference: Reference | None = None, *, kl_coef: float = 0.01,
    clip: float = 0.2, **settings: Any,
) -> PolicyGradient:  # fmt: skip
    """Make REINFORCE++ (arXiv 2501.03262): the return of each token is the rollout's outcome less the
    KL from there on, whitened over all actions of the global batch, under PPO's clip."""
    chosen: dict[str, Any] = {
        "credit": partial(group_outcome, baseline="none"),
        "objective": Clipped(clip, clip),
        "aggregation": token_mean,
        "kl": _kl(kl_coef, "k1"),
        "whiten": True,
    }
    return PolicyGradient(policy, reference=reference, **(chosen | settings))


def ReinforcePlusPlusBaseline(
    policy: TokenPolicy, reference: Reference | None = None, *, kl_coef: float = 0.01,
    clip: float = 0.2, **settings: Any,
) -> PolicyGradient:  # fmt: skip
    """Make REINFORCE++-baseline (arXiv 2501.03262): outcome less the mean of its group, whitened over
    the global batch; KL is a k2 term of the loss."""
    chosen: dict[str, Any] = {
        "credit": partial(group_outcome, baseline="mean"),
        "objective": Clipped(clip, clip),
        "aggregation": token_mean,
        "kl": _kl(kl_coef, "k2"),
        "whiten": True,
    }
    return PolicyGradient(policy, reference=reference, **(chosen | settings))


def GRPO(
    policy: TokenPolicy, reference: Reference | None = None, *, kl_coef: float = 0.04,
    clip: float = 0.2, **settings: Any,
) -> PolicyGradient:  # fmt: skip
    """Make GRPO (DeepSeekMath, arXiv 2402.03300): outcome less the group's mean, over its standard
    deviation; a mean over each rollout's tokens; k3 in the loss. A long rollout's tokens weigh less, and
    a group's weight depends on its spread."""
    chosen: dict[str, Any] = {
        "credit": _group_normalised(),
        "objective": Clipped(clip, clip),
        "aggregation": sequence_mean,
        "kl": _kl(kl_coef, "k3"),
    }
    return PolicyGradient(policy, reference=reference, **(chosen | settings))


def DrGRPO(
    policy: TokenPolicy, reference: Reference | None = None, *, max_tokens: int = 512,
    kl_coef: float = 0.0, clip: float = 0.2, **settings: Any,
) -> PolicyGradient:  # fmt: skip
    """Make Dr. GRPO (arXiv 2503.20783): outcome less the group's mean, and sums over tokens divided by
    the constant ``max_tokens``: GRPO without its biases by length and by spread."""
    chosen: dict[str, Any] = {
        "credit": partial(group_outcome, baseline="mean"),
        "objective": Clipped(clip, clip),
        "aggregation": ConstantLength(max_tokens),
        "kl": _kl(kl_coef, "k3"),
    }
    return PolicyGradient(policy, reference=reference, **(chosen | settings))


def RLOO(
    policy: TokenPolicy, reference: Reference | None = None, *, kl_coef: float = 0.05,
    **settings: Any,
) -> PolicyGradient:  # fmt: skip
    """Make RLOO (arXiv 2402.14740): outcome less the rollout's KL, less the mean of the group's other
    rollouts; plain REINFORCE of whole sequences."""
    kl = KLPenalty(kl_coef, "k1", of_sequence=True) if kl_coef else None
    chosen: dict[str, Any] = {
        "credit": partial(group_outcome, baseline="leave_one_out"),
        "objective": plain,
        "aggregation": ConstantLength(1),
        "kl": kl,
    }
    return PolicyGradient(policy, reference=reference, **(chosen | settings))


def DAPO(
    policy: TokenPolicy, *, max_tokens: int, overlong_buffer: int, clip_low: float = 0.2,
    clip_high: float = 0.28, **settings: Any,
) -> PolicyGradient:  # fmt: skip
    """Make DAPO (arXiv 2503.14476): a wider clip above, a mean over all tokens, no KL, groups of equal
    outcome left out, and a penalty on rollouts within ``overlong_buffer`` tokens of ``max_tokens``.

    What is left out is sampled anew where the ``Tuner``'s loader refills; see
    :class:`~rftt.training.tuner.Tuner`.
    """
    rewards = overlong_penalty(outcome_rewards, max_length=max_tokens, cache=overlong_buffer)
    chosen: dict[str, Any] = {
        "credit": _group_normalised(rewards=rewards),
        "objective": Clipped(clip_low, clip_high),
        "aggregation": token_mean,
        "drop_equal_groups": True,
    }
    return PolicyGradient(policy, **(chosen | settings))


def GSPO(
    policy: TokenPolicy, reference: Reference | None = None, *, kl_coef: float = 0.0,
    clip_low: float = 3e-4, clip_high: float = 4e-4, **settings: Any,
) -> PolicyGradient:  # fmt: skip
    """Make GSPO (arXiv 2507.18071): GRPO's advantages with one length-normalised ratio a sequence, and
    a clip as narrow as such ratios are."""
    chosen: dict[str, Any] = {
        "credit": _group_normalised(),
        "ratio": sequence_ratio,
        "objective": Clipped(clip_low, clip_high),
        "aggregation": sequence_mean,
        "kl": _kl(kl_coef, "k3"),
    }
    return PolicyGradient(policy, reference=reference, **(chosen | settings))


def CISPO(
    policy: TokenPolicy, reference: Reference | None = None, *, kl_coef: float = 0.0,
    clip_high: float = 4.0, **settings: Any,
) -> PolicyGradient:  # fmt: skip
    """Make CISPO (MiniMax-M1, arXiv 2506.13585): GRPO's advantages, clipped importance weights in the
    place of a clipped loss, a mean over all tokens."""
    chosen: dict[str, Any] = {
        "credit": _group_normalised(),
        "objective": _CISPO(high=clip_high),
        "aggregation": token_mean,
        "kl": _kl(kl_coef, "k3"),
    }
    return PolicyGradient(policy, reference=reference, **(chosen | settings))


def _group_normalised(**settings: Any) -> Any:
    return partial(group_outcome, baseline="mean", scale="std", **settings)


def _kl(coef: float, estimator: Literal["k1", "k2", "k3"]) -> KLPenalty | None:
    return KLPenalty(coef, estimator) if coef else None
