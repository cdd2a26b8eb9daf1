"""Train a value model, or a process reward model, on the values of search trees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import attrs
import torch
from attrs import field, frozen, validators
from torch import Tensor, nn

from rftt.interfaces import State, Verifier
from rftt.learners.credit.paths import PathCredit
from rftt.learners.credit.policy_weighted import policy_weights
from rftt.learners.critic import value_outputs
from rftt.learners.experience import Experience
from rftt.learners.forward.score import Packing
from rftt.learners.learner import Learner, LossOutput, TokenPolicy
from rftt.learners.loss.aggregation import token_mean
from rftt.learners.policy_gradient import with_global_totals
from rftt.learners.rollouts.judged import JudgedRollout, judged_rollouts
from rftt.learners.rollouts.paths import path_experience
from rftt.learners.rollouts.step_ends import at_step_ends
from rftt.search.tree.tree import SearchTree
from rftt.verifiers.value import ValueModel, ValueVerifier

Weighting = Literal["rollouts", "policy"]
"""How much a rollout counts: as often as it was drawn, or as the policy alone would have drawn it."""


@frozen(eq=False)
class ValueLearner(Learner):
    """Teaches a value model what becomes of a state, at the question and at the end of each step.

    The target is the mean score of the judged rollouts through a node (Monte-Carlo estimates as in
    Math-Shepherd, arXiv 2312.08935, soft estimation), and counts as often as they do. So the model
    learns the value under the policy that sampled, where rollouts are its independent samples;
    ``weighting="policy"`` corrects for a search that looked where scores were high.

    The model that is trained is the learner's own: the policy's model, which a trainer passes to
    :meth:`loss`, is neither used nor changed. What it makes is a verifier.

    Attributes:
        policy: what sampled the trees; only the layout of its contexts is used.
        value_model: what is trained.
        weighting: ``"rollouts"`` counts each rollout as often as it was drawn, ``"policy"`` each sampled
            child of a tree once, wherever the search looked.
        objective: squared error, or binary cross-entropy for a model whose link is logistic and scores
            in [0, 1].
        learning_rate: of the value model; ``None`` is the trainer's.
        epochs, minibatches: see :class:`~rftt.learners.learner.Learner`.
        packing: as in :func:`~rftt.learners.critic.value_outputs`.

    Raises:
        ValueError: if the objective is ``"bce"`` and the model's link is not logistic.
    """

    policy: TokenPolicy
    value_model: ValueModel
    weighting: Weighting = field(default="rollouts", validator=validators.in_(("rollouts", "policy")))
    objective: Literal["mse", "bce"] = field(default="mse", validator=validators.in_(("mse", "bce")))
    learning_rate: float | None = None
    epochs: int = field(default=1, validator=validators.ge(1))
    minibatches: int = field(default=1, validator=validators.ge(1))
    packing: Packing = "tree"

    def __attrs_post_init__(self) -> None:
        if self.objective == "bce" and self.value_model.link != "logistic":
            raise ValueError(
                "objective='bce' is of probabilities: give a ValueModel(..., link='logistic')"
            )

    @torch.no_grad()
    def experience(self, trees: Sequence[SearchTree]) -> Experience:
        """Lay out the judged rollouts: an action is a place at which a value is learned, and
        ``returns`` holds its target there.

        A question of a single id has no value of its own: nothing stands before it.

        Raises:
            ValueError: naming the tree, if the objective is ``"bce"`` and a score is not in [0, 1].
        """
        rollouts = judged_rollouts(trees)
        judged = [rollout for of_tree in rollouts for rollout in of_tree]
        for rollout in judged if self.objective == "bce" else ():
            if not 0 <= rollout.score <= 1:
                raise ValueError(
                    f"tree {rollout.tree.problem.id!r}: the score of node {rollout.end} is "
                    f"{rollout.score}; objective='bce' needs scores from 0 to 1, so take 'mse'"
                )
        weights = [weight for of_tree in rollouts for weight in _weights(of_tree, self.weighting)]
        values = node_values(judged, weights)
        batch = path_experience(self.policy, trees, [_no_credit(of_tree) for of_tree in rollouts])
        ends = [(rollout.tree, rollout.end) for rollout in judged]
        paths = [rollout.path for rollout in judged]
        learned = at_step_ends(batch, ends, [[1.0] * len(path) for path in paths]) > 0
        targets = at_step_ends(
            batch, ends,
            [[values[id(r.tree), n] for n in path] for r, path in zip(judged, paths, strict=True)],
        )  # fmt: skip
        for row, rollout in enumerate(judged):
            place = len(self.policy.context(State(rollout.tree.problem))) - 1
            if place > 0:
                learned[row, place] = True
                targets[row, place] = values[id(rollout.tree), 0]
        zeros = torch.zeros_like(batch.returns)
        batch = attrs.evolve(
            batch,
            action_mask=learned,
            functional_mask=torch.zeros_like(learned),
            log_probs=zeros,
            returns=targets,
            weights=learned * torch.tensor(weights, dtype=torch.float32)[:, None],
        )
        return with_global_totals(batch)

    def loss(self, model: nn.Module, batch: Experience) -> LossOutput:
        outputs = value_outputs(self.value_model, batch, self.packing)
        outputs = torch.where(batch.action_mask, outputs, 0.0)
        values: Tensor = self.value_model.from_outputs(outputs)
        if self.objective == "bce":
            errors = nn.functional.binary_cross_entropy_with_logits(
                outputs, batch.returns, reduction="none"
            )
        else:
            errors = (values - batch.returns).square()
        loss = token_mean(errors, batch)
        with torch.no_grad():
            metrics = {
                "value": float(token_mean(values, batch)),
                "target": float(token_mean(batch.returns, batch)),
                "absolute_error": float(token_mean((values - batch.returns).abs(), batch)),
            }
        return LossOutput(loss, metrics)

    def verifier(self, answers: Verifier | None = None) -> ValueVerifier:
        """Return the value model as a verifier.

        Args:
            answers: a verifier that extracts answers and compares them.
        """
        return ValueVerifier(self.value_model, self.policy.context, answers=answers)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {"value_model": self.value_model}

    @property
    def learning_rates(self) -> Mapping[str, float]:
        return {} if self.learning_rate is None else {"value_model": self.learning_rate}


def node_values(
    rollouts: Sequence[JudgedRollout], weights: Sequence[float]
) -> dict[tuple[int, int], float]:
    """Return the weighted mean score of the rollouts through each node, by the tree's ``id`` and the
    node, the root's among them.

    Args:
        rollouts: of any trees.
        weights: how much each counts.
    """
    terms: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for rollout, weight in zip(rollouts, weights, strict=True):
        for node in (0, *rollout.path):
            terms.setdefault((id(rollout.tree), node), []).append((weight, rollout.score))
    return {
        node: math.fsum(w * score for w, score in of_node) / math.fsum(w for w, _ in of_node)
        for node, of_node in terms.items()
    }


def _weights(rollouts: Sequence[JudgedRollout], weighting: Weighting) -> list[float]:
    if weighting == "rollouts" or not rollouts:
        return [float(rollout.count) for rollout in rollouts]
    of = policy_weights(rollouts).of
    return [of[rollout.end] for rollout in rollouts]


def _no_credit(rollouts: Sequence[JudgedRollout]) -> list[PathCredit]:
    depths = [(rollout, rollout.tree.depth[rollout.end]) for rollout in rollouts]
    return [
        PathCredit(rollout.end, rollout.count, [0.0] * depth, [1.0] * depth) for rollout, depth in depths
    ]
