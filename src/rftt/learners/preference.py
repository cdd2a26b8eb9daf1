"""Direct preference optimisation on pairs from search trees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs
import torch
from attrs import field, frozen, validators
from jaxtyping import Float
from torch import Tensor, nn

from rftt.learners.credit.paths import PathCredit
from rftt.learners.credit.preference_pairs import Pairs, PreferencePair, common_prefix, preference_pairs
from rftt.learners.experience import Experience
from rftt.learners.forward.parts import log_probs_in_parts
from rftt.learners.forward.score import Packing, score_tokens
from rftt.learners.learner import Learner, LossOutput, TokenPolicy
from rftt.learners.policy_gradient import check_full_support, with_global_totals
from rftt.learners.reference import Reference
from rftt.learners.rollouts.paths import path_experience
from rftt.search.tree.tree import SearchTree


def dpo_loss(
    margins: Float[Tensor, " pairs"], beta: float, label_smoothing: float = 0.0
) -> Float[Tensor, " pairs"]:
    """Return ``-log sigmoid(beta * h)`` of each pair (DPO, arXiv 2305.18290, eq. 7).

    With a label smoothing of ``e`` it is ``-(1 - e) log sigmoid(beta * h) - e log sigmoid(-beta * h)``
    (cDPO, Mitchell 2023, eq. 3): a pair is taken to be the wrong way round with probability ``e``.

    Args:
        margins: ``h``, how much more the policy has raised the log-probability of the chosen one above
            the reference's than that of the rejected one.
        beta: how closely the policy is held to the reference.
        label_smoothing: see above.
    """
    log_sigmoid = torch.nn.functional.logsigmoid
    chosen, rejected = log_sigmoid(beta * margins), log_sigmoid(-beta * margins)
    return -(1 - label_smoothing) * chosen - label_smoothing * rejected


def ipo_loss(margins: Float[Tensor, " pairs"], beta: float) -> Float[Tensor, " pairs"]:
    """Return ``(h - 1 / (2 * beta)) ** 2`` of each pair (IPO, arXiv 2310.12036, eq. 17, whose ``tau`` is
    ``beta``). Margins are of sums over tokens, as in the paper and in OpenRLHF; TRL takes means."""
    return (margins - 1 / (2 * beta)).square()


@frozen(eq=False)
class PreferenceLearner(Learner):
    """Makes the better of two continuations likelier than the worse, by DPO or IPO.

    A pair is two sequences of one unit. Actions are the tokens that the policy drew after the ids that
    both share. The sign of an action's advantage says which side it is of: 1 chosen, -1 rejected.

    Attributes:
        policy: what sampled the trees; its temperature and automaton are used again.
        reference: the frozen model that margins are measured to; see
            :func:`rftt.learners.reference.frozen_reference`.
        kind: ``"dpo"`` or ``"ipo"``.
        beta: how closely the policy is held to the reference. 0.1 in TRL and OpenRLHF.
        label_smoothing: of DPO: the probability that a pair is the wrong way round. 0 in both.
        pairs, min_margin: see :func:`~rftt.learners.credit.preference_pairs.preference_pairs`.
        packing: how common prefixes are computed; see
            :func:`~rftt.learners.forward.score.score_tokens`.
        micro_batch_tokens: tokens in one forward pass without gradients.

    Raises:
        ValueError: if the policy's sampling parameters give some ids no probability, or there is a label
            smoothing for IPO, which has none.
    """

    policy: TokenPolicy
    reference: Reference
    kind: Literal["dpo", "ipo"] = field(default="dpo", validator=validators.in_(("dpo", "ipo")))
    beta: float = field(default=0.1, validator=validators.gt(0))
    label_smoothing: float = field(default=0.0, validator=[validators.ge(0), validators.lt(0.5)])
    pairs: Pairs = field(default="siblings", validator=validators.in_(("siblings", "paths")))
    min_margin: float = field(default=0.1, validator=validators.gt(0))
    packing: Packing = "tree"
    micro_batch_tokens: int = field(default=16384, validator=validators.ge(1))

    def __attrs_post_init__(self) -> None:
        check_full_support(self.policy)
        if self.kind == "ipo" and self.label_smoothing:
            raise ValueError("label_smoothing is of DPO; IPO's loss has none: leave it at 0")

    @torch.no_grad()
    def experience(self, trees: Sequence[SearchTree]) -> Experience:
        """Lay out the pairs of the trees: sequences ``2 i`` and ``2 i + 1`` are chosen and rejected."""
        found = preference_pairs(trees, pairs=self.pairs, min_margin=self.min_margin)
        batch = path_experience(
            self.policy,
            [pair.tree for pair in found],
            [[_side(pair, pair.chosen, 1.0), _side(pair, pair.rejected, -1.0)] for pair in found],
        )
        differs = torch.zeros_like(batch.action_mask)
        for number in range(len(found)):
            sides = batch.ids[2 * number : 2 * number + 2]
            lengths = batch.attention_mask[2 * number : 2 * number + 2].sum(1).tolist()
            chosen, rejected = (ids[:n] for ids, n in zip(sides.tolist(), lengths, strict=True))
            differs[2 * number : 2 * number + 2, common_prefix(chosen, rejected) :] = True
        mask = batch.action_mask & differs
        batch = attrs.evolve(
            batch,
            action_mask=mask,
            functional_mask=batch.functional_mask & mask,
            log_probs=batch.log_probs * mask,
            advantages=batch.advantages * mask,
            weights=batch.weights * mask,
            units=torch.arange(len(batch)) // 2,
        )
        reference = log_probs_in_parts(
            self.reference, batch, self.policy.automaton, self.policy.sampling_params.temperature,
            max_tokens=self.micro_batch_tokens, packing=self.packing, device=self.reference.device,
        )  # fmt: skip
        return with_global_totals(attrs.evolve(batch, reference_log_probs=reference))

    def loss(self, model: nn.Module, batch: Experience) -> LossOutput:
        scores = score_tokens(
            model, batch, self.policy.automaton, self.policy.sampling_params.temperature,
            packing=self.packing,
        )  # fmt: skip
        log_probs = scores.log_probs
        margins = _by_pair((log_probs - batch.reference_log_probs) * batch.advantages, batch)
        per_pair = (
            dpo_loss(margins, self.beta, self.label_smoothing)
            if self.kind == "dpo"
            else ipo_loss(margins, self.beta)
        )
        # Each pair is two sequences.
        pairs = max(batch.totals.sequences / 2, 1.0)
        with torch.no_grad():
            side = batch.advantages
            metrics = {
                "accuracy": float((margins > 0).sum()),
                "margin": float(self.beta * margins.sum()),
                "chosen_log_prob": float((log_probs * (side > 0)).sum()),
                "rejected_log_prob": float((log_probs * (side < 0)).sum()),
            }
        return LossOutput(per_pair.sum() / pairs, {n: value / pairs for n, value in metrics.items()})


def _side(pair: PreferencePair, node: int, sign: float) -> PathCredit:
    steps = pair.tree.depth[node]
    return PathCredit(node, 1.0, [sign] * steps, [1.0] * steps)


def _by_pair(values: Float[Tensor, "batch tokens"], batch: Experience) -> Float[Tensor, " pairs"]:
    """Return the sums over the tokens of each pair, wherever its two sequences are in the batch."""
    units, place = batch.units.unique(return_inverse=True)
    return values.new_zeros(len(units)).index_add(0, place, values.sum(1))
