"""Supervised fine-tuning: make annotated text, or right paths, more likely."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import field, frozen, validators
from torch import nn

from rftt.interfaces import State
from rftt.learners.distributed import rank, world_size
from rftt.learners.experience import Experience, TokenSequence, pad_sequences
from rftt.learners.forward.score import Packing, score_tokens
from rftt.learners.learner import Learner, LossOutput, TokenPolicy
from rftt.learners.loss.aggregation import token_mean
from rftt.learners.policy_gradient import with_global_totals
from rftt.learners.rollouts.judged import judged_rollouts
from rftt.learners.rollouts.replay import ReplayBuffer
from rftt.search.tree.tree import SearchTree

_log = logging.getLogger(__name__)


@frozen(eq=False)
class SupervisedLearner(Learner):
    """Minimises the mean negative log-likelihood of the tokens to learn.

    It is normalised over the model's full vocabulary, not over what the grammar allows: a model should
    know by itself where a functional token belongs. :meth:`collate` takes annotated solutions, as a
    warm-up makes them; :meth:`experience` takes searched trees (rejection sampling).

    Attributes:
        policy: what searched the trees; only its context of a question is used.
        min_score: least score of a path that is learned.
        dropout: whether dropout is on while it learns, where the model has any.
        replay: keeps right paths, so that they are learned from again; ``None`` learns from those of the
            trees at hand.
        replay_paths: how many paths of it an experience has, on all processes together.
        packing: as in :func:`~rftt.learners.forward.score.score_tokens`.
    """

    policy: TokenPolicy
    min_score: float = 1.0
    dropout: bool = True
    replay: ReplayBuffer | None = None
    replay_paths: int = field(default=64, validator=validators.ge(1))
    packing: Packing = field(default="tree", validator=validators.in_(("tree", "none", "depth_first")))

    def collate(self, solutions: Iterable[Mapping[str, Any]]) -> Experience:
        """Make a batch of annotated solutions with the columns ``ids`` and ``action_mask``."""
        return with_global_totals(
            pad_sequences([TokenSequence(s["ids"], s["action_mask"]) for s in solutions])
        )

    def experience(self, trees: Sequence[SearchTree]) -> Experience:
        """Take each right path once, however many rollouts ended with it.

        Of ids that the policy did not draw, openers are learned: a right solution says which function
        came next, whoever chose it. Forced ids of a body, such as what a tool returned, are not.
        """
        if self.replay is not None:
            self.replay.add(trees, self.policy)
            return self.collate(self.replay.sample(self.replay_paths)[rank() :: world_size()])
        judged = [rollout for rollouts in judged_rollouts(trees) for rollout in rollouts]
        right = [rollout for rollout in judged if rollout.score >= self.min_score]
        if below := len(judged) - len(right):
            _log.info(
                "left out %d of %d judged paths: their score is below %g",
                below, len(judged), self.min_score,
            )  # fmt: skip
        sequences = []
        for rollout in right:
            question = self.policy.context(State(rollout.tree.problem))
            ids, action_mask = list(question), [False] * len(question)
            for step in rollout.tree.state(rollout.end).steps:
                ids += step.ids
                action_mask += [True] * step.body_start
                action_mask += step.action_mask[step.body_start :]
            sequences.append(TokenSequence(ids, action_mask))
        return with_global_totals(pad_sequences(sequences))

    def state_dict(self) -> dict[str, Any]:
        return {} if self.replay is None else {"replay": self.replay.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.replay is not None:
            self.replay.load_state_dict(state["replay"])

    def loss(self, model: nn.Module, batch: Experience) -> LossOutput:
        scores = score_tokens(model, batch, None, packing=self.packing)
        loss = token_mean(-scores.log_probs, batch)
        return LossOutput(loss, {"nll": float(loss.detach())})
