"""Supervised fine-tuning: make annotated text, or right paths, more likely."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen
from transformers import PreTrainedModel

from rftt.interfaces import State
from rftt.learners.experience import Experience, Row, experience_from_rows
from rftt.learners.learner import Learner, LossOutput
from rftt.learners.log_probs import token_log_probs
from rftt.learners.losses import token_mean
from rftt.policies.functional import FunctionalPolicy
from rftt.search.tree import SearchTree


@frozen(eq=False)
class SupervisedLearner(Learner):
    """Minimises the mean negative log-likelihood of the tokens to learn, over the model's whole
    vocabulary: a model should know by itself where a functional token belongs.

    :meth:`collate` takes annotated solutions, as a warm-up makes them. :meth:`experience` takes
    trees that ``policy`` searched and learns every path that its verifier gave ``right`` or more
    (rejection sampling).
    """

    policy: FunctionalPolicy
    right: float = 1.0

    def collate(self, solutions: Iterable[Mapping[str, Any]]) -> Experience:
        """Rows of a data set with the columns ``ids`` and ``learned`` (one flag an id)."""
        return experience_from_rows([Row(s["ids"], s["learned"]) for s in solutions])

    def experience(self, trees: Sequence[SearchTree]) -> Experience:
        rows = []
        for tree in trees:
            question = self.policy.context(State(tree.problem))
            for node in tree.ends():
                verdict = tree.verdict[node]
                if verdict is not None and verdict.score is not None and verdict.score >= self.right:
                    steps = [i for segment in tree.solution(node).steps for i in segment.ids]
                    actions = [False] * len(question) + [True] * len(steps)
                    rows.append(Row([*question, *steps], actions))
        if not rows:
            raise ValueError(f"no path in {len(trees)} trees has a score of {self.right:g} or more")
        return experience_from_rows(rows)

    def loss(self, model: PreTrainedModel, batch: Experience) -> LossOutput:
        log_probs = token_log_probs(model, batch, automaton=None)
        loss = token_mean(-log_probs, batch.actions, batch.action_count)
        return LossOutput(loss, {"negative_log_likelihood": float(loss.detach())})
