"""Supervised fine-tuning: make annotated text, or right paths, more likely."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen
from transformers import PreTrainedModel

from rftt.interfaces import State
from rftt.learners.experience import Experience, TokenSequence, pad_sequences
from rftt.learners.learner import Learner, LossOutput
from rftt.learners.log_probs import token_log_probs
from rftt.learners.losses import token_mean
from rftt.learners.rollouts import scored_rollouts
from rftt.policies.functional import FunctionalPolicy
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
    """

    policy: FunctionalPolicy
    min_score: float = 1.0

    def collate(self, solutions: Iterable[Mapping[str, Any]]) -> Experience:
        """Make a batch of annotated solutions with the columns ``ids`` and ``action_mask``."""
        return pad_sequences([TokenSequence(s["ids"], s["action_mask"]) for s in solutions])

    def experience(self, trees: Sequence[SearchTree]) -> Experience:
        scored = scored_rollouts(trees)
        sequences = []
        for rollout in scored:
            if rollout.score < self.min_score:
                continue
            question = self.policy.context(State(rollout.tree.problem))
            ids = [i for step in rollout.tree.state(rollout.end).steps for i in step.ids]
            action_mask = [False] * len(question) + [True] * len(ids)
            sequences.append(TokenSequence([*question, *ids], action_mask))
        if not sequences:
            raise ValueError(f"no path in {len(trees)} trees has a score of {self.min_score:g} or more")
        if below := len(scored) - len(sequences):
            _log.info(
                "left out %d of %d scored paths: their score is below %g",
                below, len(scored), self.min_score,
            )  # fmt: skip
        return pad_sequences(sequences)

    def loss(self, model: PreTrainedModel, batch: Experience) -> LossOutput:
        log_probs = token_log_probs(model, batch, automaton=None)
        loss = token_mean(-log_probs, batch.action_mask, batch.action_count)
        return LossOutput(loss, {"nll": float(loss.detach())})
