"""What a policy-gradient update looks like from outside, functional tokens apart from text."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rftt.learners.experience import Experience
from rftt.learners.loss.kl import k3
from rftt.learners.loss.objectives import Objective

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
