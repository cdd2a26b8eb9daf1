"""A small learner that keeps every promise, and others that each break one, as their authors might
have meant them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from attrs import field, frozen
from torch import Tensor, nn
from transformers import PreTrainedModel

from rftt import SearchTree
from rftt.interfaces import State
from rftt.learners.credit.paths import PathCredit
from rftt.learners.distributed import global_sum
from rftt.learners.experience import BatchTotals, Experience, TokenSequence, pad_sequences
from rftt.learners.forward.score import score_tokens
from rftt.learners.forward.states import automaton_states
from rftt.learners.learner import Learner, LossOutput, TokenPolicy
from rftt.learners.reference import Reference
from rftt.learners.rollouts.judged import JudgedRollout, judged_rollouts
from rftt.learners.rollouts.paths import path_experience
from rftt.testing.finite.model import FiniteModel


@frozen(eq=False)
class Reinforce(Learner):
    """REINFORCE: each rollout counts, its score is compared with the mean of its tree's others."""

    policy: TokenPolicy
    reference: Reference | None = None

    def rollouts(self, trees: Sequence[SearchTree]) -> list[list[JudgedRollout]]:
        return judged_rollouts(trees)

    def advantages(self, rollouts: Sequence[JudgedRollout]) -> list[list[float]]:
        """Return an advantage for each step of each rollout of a tree."""
        total = math.fsum(rollout.score for rollout in rollouts)
        others = max(1, len(rollouts) - 1)
        return [
            [(rollout.score - (total - rollout.score) / others) * (len(rollouts) > 1)]
            * len(rollout.path)
            for rollout in rollouts
        ]

    def weights(self, rollouts: Sequence[JudgedRollout]) -> list[list[float]]:
        return [[1.0] * len(rollout.path) for rollout in rollouts]

    @torch.no_grad()
    def experience(self, trees: Sequence[SearchTree]) -> Experience:
        credits = [
            [
                PathCredit(rollout.end, 1, advantages, weights)
                for rollout, advantages, weights in zip(
                    rollouts, self.advantages(rollouts), self.weights(rollouts), strict=True
                )
            ]
            for rollouts in self.rollouts(trees)
        ]
        return self.totalled(self.laid_out(trees, credits))

    def laid_out(
        self, trees: Sequence[SearchTree], credits: Sequence[Sequence[PathCredit]]
    ) -> Experience:
        return path_experience(self.policy, trees, credits)

    def totalled(self, batch: Experience) -> Experience:
        totals = BatchTotals(*global_sum(attrs.astuple(batch.with_totals().totals)))
        return attrs.evolve(batch, totals=totals)

    def log_probs(self, model: PreTrainedModel, batch: Experience) -> Tensor:
        temperature = self.policy.sampling_params.temperature
        return score_tokens(model, batch, self.policy.automaton, temperature).log_probs

    def loss(self, model: PreTrainedModel, batch: Experience) -> LossOutput:
        ratio = (self.log_probs(model, batch) - batch.log_probs).exp()
        return self.summed(-ratio * batch.advantages * batch.weights, ratio, batch)

    def summed(self, values: Tensor, ratio: Tensor, batch: Experience) -> LossOutput:
        divisor = max(batch.totals.actions, 1.0)
        mean_ratio = float((ratio.detach() * batch.weights).sum()) / divisor
        return LossOutput(values.sum() / divisor, {"ratio": mean_ratio})


class SharedOnce(Reinforce):
    """A step that rollouts share counts once, not once for each of them."""

    def weights(self, rollouts: Sequence[JudgedRollout]) -> list[list[float]]:
        passed: dict[int, int] = {}
        for rollout in rollouts:
            for node in rollout.path:
                passed[node] = passed.get(node, 0) + 1
        return [[1 / passed[node] for node in rollout.path] for rollout in rollouts]


class TotalsAgainstToGo(Reinforce):
    """Rewards to go of scored steps, less the mean of *total* rewards."""

    def advantages(self, rollouts: Sequence[JudgedRollout]) -> list[list[float]]:
        rewards = [rollout.verdict.step_scores or () for rollout in rollouts]
        mean = math.fsum(map(math.fsum, rewards)) / max(1, len(rewards))
        return [[math.fsum(some[place:]) - mean for place in range(len(some))] for some in rewards]


class ToGoAgainstToGo(Reinforce):
    """As it should be: less the mean of total rewards, less the rewards before."""

    def advantages(self, rollouts: Sequence[JudgedRollout]) -> list[list[float]]:
        rewards = [rollout.verdict.step_scores or () for rollout in rollouts]
        mean = math.fsum(map(math.fsum, rewards)) / max(1, len(rewards))
        return [[math.fsum(some) - mean for _ in some] for some in rewards]


class WhitensPadding(Reinforce):
    """Moments over all places of the batch."""

    def totalled(self, batch: Experience) -> Experience:
        scaled = batch.advantages / (batch.advantages.std() + 1e-8)
        return super().totalled(attrs.evolve(batch, advantages=scaled * batch.action_mask))


class WhitensQuestions(Reinforce):
    """Moments over all tokens, chosen or not."""

    def totalled(self, batch: Experience) -> Experience:
        if not len(batch):
            return super().totalled(batch)
        scaled = batch.advantages / (batch.advantages[batch.attention_mask].std() + 1e-8)
        return super().totalled(attrs.evolve(batch, advantages=scaled * batch.action_mask))


class OwnDenominator(Reinforce):
    """The mean over the actions of a micro-batch."""

    def summed(self, values: Tensor, ratio: Tensor, batch: Experience) -> LossOutput:
        return LossOutput(values.sum() / batch.weights.sum().clamp(min=1), {})


class OwnMetrics(Reinforce):
    """The loss adds up, the metric does not."""

    def summed(self, values: Tensor, ratio: Tensor, batch: Experience) -> LossOutput:
        loss = super().summed(values, ratio, batch).loss
        return LossOutput(loss, {"largest_ratio": float(ratio.detach().max())})


class CountsItsRank(Reinforce):
    """Totals of one process."""

    def totalled(self, batch: Experience) -> Experience:
        return batch.with_totals()


class LearnsForced(Reinforce):
    """Takes every id of a step for an action."""

    def laid_out(
        self, trees: Sequence[SearchTree], credits: Sequence[Sequence[PathCredit]]
    ) -> Experience:
        sequences, starts = [], []
        for tree, paths in zip(trees, credits, strict=True):
            for path in paths:
                question = self.policy.context(State(tree.problem))
                steps = tree.state(path.end).steps
                body = [token for step in steps for token in step.ids]
                log_probs = [p for step in steps for p in step.log_probs]
                advantages = [
                    a for step, a in zip(steps, path.advantages, strict=True) for _ in step.ids
                ]
                none = [0.0] * len(question)
                mask = [False] * len(question) + [True] * len(body)
                sequences.append(
                    TokenSequence([*question, *body], mask, none + log_probs, none + advantages)
                )
                starts.append(len(question))
        batch = pad_sequences(sequences)
        if not sequences or self.policy.automaton is None:
            return batch
        states = automaton_states(
            batch.ids, batch.attention_mask, torch.tensor(starts), self.policy.automaton
        )
        return attrs.evolve(batch, states=states)


class OffByOne(Reinforce):
    """Gives each token the credit of the one before it."""

    def loss(self, model: PreTrainedModel, batch: Experience) -> LossOutput:
        return super().loss(model, attrs.evolve(batch, advantages=batch.advantages.roll(1, 1)))


class CreditEverywhere(Reinforce):
    """Leaves advantages where there is no action."""

    def totalled(self, batch: Experience) -> Experience:
        advantages = torch.where(batch.attention_mask, batch.advantages.sum(1, keepdim=True), 0.0)
        return super().totalled(attrs.evolve(batch, advantages=advantages))


class WrongSign(Reinforce):
    """Goes down where it should go up."""

    def summed(self, values: Tensor, ratio: Tensor, batch: Experience) -> LossOutput:
        return super().summed(-values, ratio, batch)


class IgnoresSign(Reinforce):
    """Learns from what was good, and as much from what was bad."""

    def loss(self, model: PreTrainedModel, batch: Experience) -> LossOutput:
        return super().loss(model, attrs.evolve(batch, advantages=batch.advantages.abs()))


class Dropout(Reinforce):
    """Trains in train mode."""

    def log_probs(self, model: PreTrainedModel, batch: Experience) -> Tensor:
        model.train()
        try:
            return super().log_probs(model, batch)
        finally:
            model.eval()


class TrainMode(Reinforce):
    """Leaves the model in train mode."""

    def loss(self, model: PreTrainedModel, batch: Experience) -> LossOutput:
        output = super().loss(model, batch)
        model.train()
        return output


class StaleLogProbs(Reinforce):
    """Takes the log-probabilities of an older model for those of the one that sampled."""

    @torch.no_grad()
    def prepare(self, model: PreTrainedModel, experience: Experience) -> Experience:
        assert isinstance(self.reference, FiniteModel)
        if not len(experience):
            return experience
        return attrs.evolve(experience, log_probs=self.log_probs(self.reference, experience))


class ForgetsTemperature(Reinforce):
    """Computes old log-probabilities anew, of another distribution."""

    @torch.no_grad()
    def prepare(self, model: PreTrainedModel, experience: Experience) -> Experience:
        if not len(experience):
            return experience
        scores = score_tokens(model, experience, self.policy.automaton)
        return attrs.evolve(experience, log_probs=scores.log_probs)


class ForgetsMasks(Reinforce):
    """Normalises over ids that could not be drawn."""

    def log_probs(self, model: PreTrainedModel, batch: Experience) -> Tensor:
        temperature = self.policy.sampling_params.temperature
        return score_tokens(model, batch, None, temperature).log_probs


class TruncatedAreWrong(Reinforce):
    """Counts whatever has no score as a failure."""

    def rollouts(self, trees: Sequence[SearchTree]) -> list[list[JudgedRollout]]:
        return [
            [
                JudgedRollout(tree, end, tree.ended[end], verdict, verdict.score or 0.0)
                for end in tree.ends()
                if (verdict := tree.verdict[end]) is not None
            ]
            for tree in trees
        ]


class DividesByStd(Reinforce):
    """GRPO's scale, without the small number."""

    def advantages(self, rollouts: Sequence[JudgedRollout]) -> list[list[float]]:
        scores = torch.tensor([rollout.score for rollout in rollouts])
        scaled = (scores - scores.mean()) / scores.std()
        return [[float(a)] * len(r.path) for a, r in zip(scaled, rollouts, strict=True)]

    def laid_out(
        self, trees: Sequence[SearchTree], credits: Sequence[Sequence[PathCredit]]
    ) -> Experience:
        finite = [
            [attrs.evolve(path, advantages=[0.0] * len(path.advantages)) for path in paths]
            for paths in credits
        ]
        batch = super().laid_out(trees, finite)
        rows = [path for paths in credits for path in paths]
        advantages = torch.tensor([path.advantages[0] for path in rows])[:, None]
        return attrs.evolve(batch, advantages=torch.where(batch.action_mask, advantages, 0.0))


class NoBaseline(Reinforce):
    """Unbiased, and moved by rewards that are all the same."""

    def advantages(self, rollouts: Sequence[JudgedRollout]) -> list[list[float]]:
        return [[rollout.score] * len(rollout.path) for rollout in rollouts]


class AcceptsAnything(DividesByStd):
    """Does not look at numbers."""

    def advantages(self, rollouts: Sequence[JudgedRollout]) -> list[list[float]]:
        return Reinforce.advantages(self, rollouts)


class RefusesWithoutName(AcceptsAnything):
    """Looks at numbers too late to say where they are from."""

    def totalled(self, batch: Experience) -> Experience:
        if not (batch.advantages.isfinite().all() and batch.log_probs.isfinite().all()):
            raise ValueError("a number is not finite")
        return super().totalled(batch)


class WantsSomething(Reinforce):
    """Takes trees without a judged end for an error."""

    def experience(self, trees: Sequence[SearchTree]) -> Experience:
        batch = super().experience(trees)
        if not len(batch):
            raise ValueError("no rollout was judged")
        return batch


class RunningMean(Reinforce):
    """A baseline of what came before in the batch."""

    def experience(self, trees: Sequence[SearchTree]) -> Experience:
        batch = super().experience(trees)
        totals = batch.advantages.sum(1)
        before = (totals.cumsum(0) - totals) / torch.arange(1, len(batch) + 1)
        advantages = (batch.advantages - before[:, None]) * batch.action_mask
        return attrs.evolve(batch, advantages=advantages)


class WritesScores(Reinforce):
    """Rewards what it has learned from less the next time."""

    def experience(self, trees: Sequence[SearchTree]) -> Experience:
        batch = super().experience(trees)
        for tree in trees:
            tree.memo["learned"] = True
        return batch


class DropsDuplicates(Reinforce):
    """Scores each distinct token once, and forgets how many sequences have it."""

    def loss(self, model: PreTrainedModel, batch: Experience) -> LossOutput:
        seen: set[tuple[int, ...]] = set()
        first = torch.zeros_like(batch.action_mask)
        for row, ids in enumerate(batch.ids.tolist()):
            for place in range(len(ids)):
                first[row, place] = tuple(ids[: place + 1]) not in seen
                seen.add(tuple(ids[: place + 1]))
        return super().loss(model, attrs.evolve(batch, weights=batch.weights * first))


@frozen(eq=False)
class ForgetsItsState(Reinforce):
    """Has a coefficient that adapts, and does not save it."""

    memory: dict[str, float] = field(factory=lambda: {"scale": 1.0})

    def summed(self, values: Tensor, ratio: Tensor, batch: Experience) -> LossOutput:
        return super().summed(values * self.memory["scale"], ratio, batch)

    def after_update(self, metrics: Mapping[str, float]) -> None:
        self.memory["scale"] *= 1.5


class SavesAnObject(ForgetsItsState):
    """Saves something that only this program can read."""

    def state_dict(self) -> dict[str, Any]:
        return {"memory": _Memory(self.memory["scale"])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.memory["scale"] = state["memory"].scale


@frozen
class _Memory:
    scale: float


class RemembersItsState(ForgetsItsState):
    """As it should be."""

    def state_dict(self) -> dict[str, Any]:
        return dict(self.memory)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.memory.update(state)


@frozen(eq=False)
class WithCritic(Reinforce):
    """Adds the error of a constant critic to the loss."""

    critic: nn.Linear = field(factory=lambda: nn.Linear(1, 1))

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {"critic": self.critic}

    def loss(self, model: PreTrainedModel, batch: Experience) -> LossOutput:
        output = super().loss(model, batch)
        value = self.critic(torch.ones(1))
        error = ((value - batch.advantages).square() * batch.weights).sum()
        return LossOutput(output.loss + error / max(batch.totals.actions, 1.0), output.metrics)


class NewModules(WithCritic):
    """Makes its critic each time it is asked for."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {"critic": nn.Linear(1, 1)}


class UntrainedModules(WithCritic):
    """Forgets the critic in its loss."""

    def loss(self, model: PreTrainedModel, batch: Experience) -> LossOutput:
        return Reinforce.loss(self, model, batch)


class LearnsNothing(Reinforce):
    """Loses the gradient."""

    def loss(self, model: PreTrainedModel, batch: Experience) -> LossOutput:
        output = super().loss(model, batch)
        return LossOutput(output.loss.detach(), output.metrics)
