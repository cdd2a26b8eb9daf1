"""What an update looks like from outside: of its tokens, functional ones apart from text, and of its
rollouts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rftt.learners.distributed import global_sums
from rftt.learners.experience import Experience
from rftt.learners.loss.kl import k3
from rftt.learners.loss.objectives import Objective
from rftt.learners.rollouts.judged import rollout_statistics
from rftt.search.tree.tree import SearchTree

Tokens = Float[Tensor, "batch tokens"]
"""One number for each token of a padded batch."""


@torch.no_grad()
def token_metrics(
    batch: Experience,
    log_ratio: Tokens,
    entropy: Tokens,
    objective: Objective,
    to_reference: Tokens | None,
) -> dict[str, float]:
    """Return means over the actions of the full batch, each also of functional tokens and of text alone
    (``.../functional``, ``.../text``).

    They add up over micro-batches and processes. ``kl`` is the k3 estimate of the KL to the reference in
    nats a token, ``entropy`` is in nats, ``clip_fraction`` the share of actions whose gradient the clip
    takes or bounds, ``old_kl`` the k3 estimate of the KL from the policy that sampled.
    """
    values = {"entropy": entropy, "old_kl": k3(-log_ratio), "advantage": batch.advantages}
    is_clipped = getattr(objective, "is_clipped", None)
    if is_clipped is not None:
        values["clip_fraction"] = is_clipped(log_ratio, batch.advantages).to(entropy.dtype)
    if to_reference is not None:
        values["kl"] = k3(to_reference)
    functional = batch.weights * batch.functional_mask
    text = batch.weights - functional
    totals = batch.totals
    metrics: dict[str, float] = {}
    for name, value in values.items():
        metrics[name] = _share(value, batch.weights, totals.actions)
        if totals.functional_actions:
            metrics[f"{name}/functional"] = _share(value, functional, totals.functional_actions)
            metrics[f"{name}/text"] = _share(value, text, totals.actions - totals.functional_actions)
    return metrics


def _share(values: Tokens, weights: Tokens, total: float) -> float:
    return float((values * weights).sum()) / max(total, 1e-30)


def rollout_metrics(trees: Sequence[SearchTree]) -> dict[str, float]:
    """Return figures of the rollouts of all processes: the mean reward and length of judged ones, the
    shares that were left out by reason, and of each function how many steps in 100 are its."""
    sums = global_sums(rollout_statistics(trees))
    rollouts, judged = max(1.0, sums["rollouts"]), max(1.0, sums["judged"])
    metrics = {
        "rollouts": sums["rollouts"],
        "sampled_tokens": sums["tokens"],
        "reward": sums["score_sum"] / judged,
        "length": sums["length_sum"] / judged,
    }
    for reason in ("truncated", "partial", "abstained", "unjudged"):
        metrics[reason] = sums[reason] / rollouts
    for name, value in sums.items():
        if name.startswith("function/"):
            metrics[name] = 100 * value / max(1.0, sums["steps"])
    return metrics
