"""REINFORCE++ on search trees."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import attrs
import torch
from attrs import field, frozen, validators
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers import PreTrainedModel

from rftt.interfaces import State, Verdict
from rftt.learners.credit import discounted_returns, group_mean, whiten
from rftt.learners.experience import Experience, TokenSequence, pad_sequences
from rftt.learners.learner import Learner, LossOutput
from rftt.learners.log_probs import automaton_states, token_log_probs
from rftt.learners.losses import clipped_policy_loss, k1, k2, k3, token_mean
from rftt.learners.reference import Reference
from rftt.learners.rollouts import scored_rollouts
from rftt.policies.functional import FunctionalPolicy
from rftt.search.tree.tree import SearchTree

_log = logging.getLogger(__name__)


def step_rewards(verdict: Verdict, steps: int, outcome_weight: float) -> list[float]:
    """Return one reward for each step of a rollout.

    They are 0 and, at the last step, the outcome. If the verdict scores steps, they are those scores,
    with ``outcome_weight * outcome + (1 - outcome_weight) * score`` at the last step
    (arXiv 2502.13389 uses 0.6).

    Raises:
        ValueError: if the verdict abstains or scores another number of steps.
    """
    if verdict.score is None:
        raise ValueError("the verifier abstained: there is no reward")
    if verdict.step_scores is None:
        return [0.0] * (steps - 1) + [verdict.score]
    if len(verdict.step_scores) != steps:
        raise ValueError(f"the verdict scores {len(verdict.step_scores)} steps; the path has {steps}")
    *before, last = verdict.step_scores
    return [*before, outcome_weight * verdict.score + (1 - outcome_weight) * last]


@frozen
class _Rollout:
    """A scored rollout as a sequence, before padding.

    Attributes:
        group: the tree it is of.
        sequence: the question and the steps.
        start: the place of the first id after the question.
        rewards: for each id, its reward: a step's is at its last id.
        token_numbers: for each id, the number of its token among all tokens of all trees; -1 in the
            question. Rollouts of one tree share tokens.
    """

    group: int
    sequence: TokenSequence
    start: int
    rewards: list[float]
    token_numbers: list[int]


@frozen(eq=False)
class ReinforcePlusPlus(Learner):
    """REINFORCE++ (arXiv 2501.03262): no critic; advantages are returns, whitened over all action
    tokens of the batch, under PPO's clipped loss.

    Each scored rollout of a tree is a sequence. A token that rollouts share was sampled once: it counts
    once, with the mean of their returns. Tokens that the searcher forced are not learned from.

    Attributes:
        policy: what sampled the trees; its temperature and automaton are used again, so that the first
            ratio is exactly 1.
        reference: the frozen model that KL is measured to; see
            :func:`rftt.learners.reference.frozen_reference`.
        kl_coef: weight of the KL. Without ``group_baseline`` the reward of each token is lowered by
            ``kl_coef * (log policy - log reference)``; with it, KL is a k2 term of the loss.
        group_baseline: whether to subtract the mean outcome of the problem's rollouts first
            (REINFORCE++-baseline); whitening then only scales. A problem whose rollouts all scored
            the same teaches nothing, and is left out where another teaches something.
        clip_epsilon: PPO's epsilon.
        gamma: discount for each token.
        outcome_weight: see :func:`step_rewards`.
        micro_batch_tokens: places in one forward pass of the reference.

    Raises:
        ValueError: if the policy's sampling parameters give some ids no probability.
    """

    policy: FunctionalPolicy
    reference: Reference
    kl_coef: float = field(default=0.01, validator=validators.ge(0))
    group_baseline: bool = False
    clip_epsilon: float = field(default=0.2, validator=validators.gt(0))
    gamma: float = 1.0
    outcome_weight: float = 0.6
    micro_batch_tokens: int = 16384

    def __attrs_post_init__(self) -> None:
        if not (params := self.policy.sampling_params).has_full_support:
            raise ValueError(
                f"the policy samples with {params}, which gives some ids no probability, so that there "
                "is no ratio to learn from: give its sampler a temperature above 0, top_p=1 and min_p=0"
            )

    @torch.no_grad()
    def experience(self, trees: Sequence[SearchTree]) -> Experience:
        rollouts = self._rollouts(trees)
        if not rollouts:
            raise ValueError(f"no rollout in {len(trees)} trees was judged: there is no reward")
        if self.group_baseline:
            rollouts = _drop_equal_groups(rollouts)
        batch = pad_sequences([rollout.sequence for rollout in rollouts])
        width = batch.ids.shape[1]
        starts = torch.tensor([rollout.start for rollout in rollouts])
        token_numbers = _pad([rollout.token_numbers for rollout in rollouts], width, -1)
        rewards = _pad([rollout.rewards for rollout in rollouts], width, 0.0)
        states = automaton_states(batch.ids, batch.attention_mask, starts, self.policy.automaton)
        batch = attrs.evolve(batch, states=states)
        reference = self._reference_log_probs(batch)
        if not self.group_baseline:
            rewards = rewards - self.kl_coef * k1(batch.log_probs - reference)
        returns = discounted_returns(rewards, self.gamma)
        if self.group_baseline:
            groups = torch.tensor([rollout.group for rollout in rollouts])
            returns = returns - group_mean(rewards.sum(1), groups)[:, None]
        returns = group_mean(returns, token_numbers)
        action_mask = batch.action_mask & _first_occurrence(token_numbers)
        return attrs.evolve(
            batch,
            action_mask=action_mask,
            log_probs=torch.where(action_mask, batch.log_probs, 0.0),
            reference_log_probs=torch.where(action_mask, reference, 0.0),
            advantages=whiten(returns, action_mask, centre=not self.group_baseline),
            action_count=int(action_mask.sum()),
        )

    def loss(self, model: PreTrainedModel, batch: Experience) -> LossOutput:
        log_probs = self._log_probs(model, batch)
        per_token = clipped_policy_loss(log_probs, batch.log_probs, batch.advantages, self.clip_epsilon)
        log_ratio = log_probs - batch.reference_log_probs
        if self.group_baseline:
            per_token = per_token + self.kl_coef * k2(log_ratio)
        with torch.no_grad():
            ratio = (log_probs - batch.log_probs).exp()
            measured = {
                "kl_to_reference": k3(log_ratio),
                "clip_fraction": ((ratio - 1).abs() > self.clip_epsilon).float(),
                "nll": -log_probs,
            }
        metrics = {
            name: float(token_mean(values, batch.action_mask, batch.action_count))
            for name, values in measured.items()
        }
        return LossOutput(token_mean(per_token, batch.action_mask, batch.action_count), metrics)

    def _rollouts(self, trees: Sequence[SearchTree]) -> list[_Rollout]:
        rollouts: list[_Rollout] = []
        first_number: dict[tuple[int, int], int] = {}
        tokens = 0
        for scored in scored_rollouts(trees):
            tree, group = scored.tree, scored.group
            question = self.policy.context(State(tree.problem))
            nodes, steps = tree.path(scored.end), tree.state(scored.end).steps
            ids, action_mask = list(question), [False] * len(question)
            log_probs, rewards = [0.0] * len(question), [0.0] * len(question)
            numbers = [-1] * len(question)
            step_reward = step_rewards(scored.verdict, len(steps), self.outcome_weight)
            for node, step, reward in zip(nodes, steps, step_reward, strict=True):
                if (group, node) not in first_number:
                    first_number[group, node] = tokens
                    tokens += len(step.ids)
                first = first_number[group, node]
                ids += step.ids
                action_mask += step.action_mask
                log_probs += step.log_probs
                rewards += [0.0] * (len(step.ids) - 1) + [reward]
                numbers += range(first, first + len(step.ids))
            sequence = TokenSequence(ids, action_mask, log_probs)
            rollouts.append(_Rollout(group, sequence, len(question), rewards, numbers))
        return rollouts

    def _log_probs(
        self, model: PreTrainedModel | Reference, batch: Experience
    ) -> Float[Tensor, "batch tokens"]:
        temperature = self.policy.sampling_params.temperature
        return token_log_probs(model, batch, self.policy.automaton, temperature)

    def _reference_log_probs(self, batch: Experience) -> Float[Tensor, "batch tokens"]:
        result = torch.zeros_like(batch.log_probs)
        by_length = batch.attention_mask.sum(1).argsort()
        sequences = max(1, self.micro_batch_tokens // batch.ids.shape[1])
        for selected in by_length.split(sequences):
            part = batch.select(selected)
            log_probs = self._log_probs(self.reference, part.to(self.reference.device))
            result[selected, : part.ids.shape[1]] = log_probs.to(result.device)
        return result


def _drop_equal_groups(rollouts: list[_Rollout]) -> list[_Rollout]:
    """Return the rollouts of groups that differ in total reward; all, if there is no such group."""
    totals: dict[int, list[float]] = {}
    for rollout in rollouts:
        totals.setdefault(rollout.group, []).append(sum(rollout.rewards))
    equal = {group for group, total in totals.items() if max(total) - min(total) <= 1e-9}
    if len(equal) == len(totals):
        _log.warning(
            "all rollouts have the same reward in each of %d groups: advantages are 0", len(totals)
        )
        return rollouts
    kept = [rollout for rollout in rollouts if rollout.group not in equal]
    if equal:
        _log.info(
            "left out %d of %d groups (%d of %d sequences): all their rollouts have the same reward",
            len(equal), len(totals), len(rollouts) - len(kept), len(rollouts),
        )  # fmt: skip
    return kept


def _pad(lists: Sequence[Sequence[int | float]], width: int, fill: int | float) -> Tensor:
    return torch.tensor([[*values, *[fill] * (width - len(values))] for values in lists])


def _first_occurrence(
    token_numbers: Int64[Tensor, "batch tokens"],
) -> Bool[Tensor, "batch tokens"]:
    """Return True at the first place, in the order of the batch, of each token of the trees."""
    flat = token_numbers.flatten()
    places = torch.arange(flat.numel())
    first = torch.full((int(flat.max()) + 1,), flat.numel())
    numbered = flat >= 0
    first = first.scatter_reduce(0, flat[numbered], places[numbered], "amin")
    result = torch.zeros_like(numbered)
    result[first[first < flat.numel()]] = True
    return result.view_as(token_numbers)
