"""REINFORCE++ on search trees."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from attrs import field, frozen, validators
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers import PreTrainedModel

from rftt.interfaces import State, Verdict
from rftt.learners.credit import mean_over_shared, returns, whiten
from rftt.learners.experience import Experience, Row, experience_from_rows
from rftt.learners.learner import Learner, LossOutput
from rftt.learners.log_probs import automaton_states, token_log_probs
from rftt.learners.losses import clipped_policy_loss, k1, k2, k3, token_mean
from rftt.learners.reference import Reference
from rftt.policies.functional import FunctionalPolicy
from rftt.search.tree import SearchTree


def step_rewards(verdict: Verdict, steps: int, outcome_weight: float) -> list[float]:
    """One reward a step: 0 and, at the last, the outcome; or, if the verdict scores steps, those
    scores, with ``outcome_weight * outcome + (1 - outcome_weight) * score`` at the last
    (arXiv 2502.13389 uses 0.6).

    Raises ``ValueError`` if the verdict abstains or scores another number of steps.
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
class _Paths:
    """The rollouts of some trees as rows, before tensors."""

    rows: list[Row]
    starts: list[int]
    rewards: list[list[float]]
    owners: list[list[int]]
    groups: list[int]


@frozen(eq=False)
class ReinforcePlusPlus(Learner):
    """REINFORCE++ (arXiv 2501.03262): no critic; advantages are returns, whitened over all action
    tokens of the batch, under PPO's clipped loss.

    Each rollout of a tree is a row. Tokens that rollouts share were sampled once: they count once,
    with the mean of their returns. A rollout whose verifier abstained is left out. Tokens that the
    searcher forced are not learned from.

    Attributes:
        policy: what sampled the trees; its sampler's temperature and its automaton are used again, so
            that the first ratio is exactly 1.
        reference: the frozen model that KL is measured to; see
            :func:`rftt.learners.reference.frozen_reference`.
        kl: its coefficient. Without ``group_baseline`` the reward of each token is lowered by
            ``kl * (log policy - log reference)``; with it, KL is a k2 term of the loss.
        group_baseline: subtract the mean outcome of the problem's rollouts first
            (REINFORCE++-baseline); whitening then only scales. A problem whose rollouts all scored
            the same teaches nothing, and is left out where another teaches something.
        clip: PPO's epsilon.
        gamma: discount for each token.
        outcome_weight: see :func:`step_rewards`.
        tokens_at_once: places in one forward pass of the reference.
    """

    policy: FunctionalPolicy
    reference: Reference
    kl: float = field(default=0.01, validator=validators.ge(0))
    group_baseline: bool = False
    clip: float = field(default=0.2, validator=validators.gt(0))
    gamma: float = 1.0
    outcome_weight: float = 0.6
    tokens_at_once: int = 16384

    def __attrs_post_init__(self) -> None:
        if not (warp := self.policy.sampler.warp).is_whole:
            raise ValueError(
                f"the policy samples with {warp}, which gives some ids no probability, so that there is "
                "no ratio to learn from: give its sampler a temperature above 0, top_p=1 and min_p=0"
            )

    @property
    def _temperature(self) -> float:
        return self.policy.sampler.warp.temperature

    @torch.no_grad()
    def experience(self, trees: Sequence[SearchTree]) -> Experience:
        paths = self._paths(trees)
        if not paths.rows:
            raise ValueError(f"no rollout in {len(trees)} trees was judged: there is no reward")
        if self.group_baseline:
            paths = _where_rewards_differ(paths)
        batch = experience_from_rows(paths.rows)
        states = automaton_states(
            batch.ids, batch.present, torch.tensor(paths.starts), self.policy.automaton
        )
        owner = _padded(paths.owners, batch.ids.shape[1], -1)
        batch = attrs.evolve(batch, states=states)
        reference = self._reference_log_probs(batch)
        rewards = _padded(paths.rewards, batch.ids.shape[1], 0.0)
        if not self.group_baseline:
            rewards = rewards - self.kl * k1(batch.log_probs - reference)
        gains = returns(rewards, self.gamma)
        if self.group_baseline:
            gains = gains - _group_means(rewards.sum(1), torch.tensor(paths.groups))[:, None]
        gains = mean_over_shared(gains, owner)
        actions = batch.actions & _is_first(owner)
        return attrs.evolve(
            batch,
            actions=actions,
            log_probs=torch.where(actions, batch.log_probs, 0.0),
            reference_log_probs=torch.where(actions, reference, 0.0),
            advantages=whiten(gains, actions, centre=not self.group_baseline),
            action_count=int(actions.sum()),
        )

    def loss(self, model: PreTrainedModel, batch: Experience) -> LossOutput:
        log_probs = token_log_probs(model, batch, self.policy.automaton, self._temperature)
        per_token = clipped_policy_loss(log_probs, batch.log_probs, batch.advantages, self.clip)
        log_ratio = log_probs - batch.reference_log_probs
        if self.group_baseline:
            per_token = per_token + self.kl * k2(log_ratio)
        with torch.no_grad():
            ratio = (log_probs - batch.log_probs).exp()
            measured = {
                "kl_to_reference": k3(log_ratio),
                "clipped_share": ((ratio - 1).abs() > self.clip).float(),
                "negative_log_prob": -log_probs,
            }
        metrics = {
            name: float(token_mean(values, batch.actions, batch.action_count))
            for name, values in measured.items()
        }
        return LossOutput(token_mean(per_token, batch.actions, batch.action_count), metrics)

    def _paths(self, trees: Sequence[SearchTree]) -> _Paths:
        paths = _Paths([], [], [], [], [])
        known: dict[tuple[int, int], int] = {}
        tokens = 0
        for group, tree in enumerate(trees):
            question = list(self.policy.context(State(tree.problem)))
            for node in tree.ends():
                verdict = tree.verdict[node]
                if verdict is None or verdict.score is None:
                    continue
                nodes, steps = tree.path(node), tree.solution(node).steps
                ids, chosen, log_probs = list(question), [False] * len(question), [0.0] * len(question)
                rewards, owner = [0.0] * len(question), [-1] * len(question)
                for n, step, reward in zip(
                    nodes, steps, step_rewards(verdict, len(steps), self.outcome_weight), strict=True
                ):
                    if (group, n) not in known:
                        known[group, n] = tokens
                        tokens += len(step.ids)
                    ids += step.ids
                    chosen += step.chosen
                    log_probs += step.log_probs
                    rewards += [0.0] * (len(step.ids) - 1) + [reward]
                    owner += range(known[group, n], known[group, n] + len(step.ids))
                paths.rows.append(Row(ids, chosen, log_probs))
                paths.starts.append(len(question))
                paths.rewards.append(rewards)
                paths.owners.append(owner)
                paths.groups.append(group)
        return paths

    def _reference_log_probs(self, batch: Experience) -> Float[Tensor, "rows tokens"]:
        result = torch.zeros_like(batch.log_probs)
        order = batch.present.sum(1).argsort()
        rows_at_once = max(1, self.tokens_at_once // batch.ids.shape[1])
        device = self.reference.device
        for rows in order.split(rows_at_once):
            part = batch.take(rows)
            log_probs = token_log_probs(
                self.reference, part.to(device), self.policy.automaton, self._temperature
            )
            result[rows, : part.ids.shape[1]] = log_probs.to(result.device)
        return result


def _where_rewards_differ(paths: _Paths) -> _Paths:
    """The paths of problems whose paths differ in total reward; all, if there is no such problem."""
    totals: dict[int, list[float]] = {}
    for group, rewards in zip(paths.groups, paths.rewards, strict=True):
        totals.setdefault(group, []).append(sum(rewards))
    kept = [i for i, g in enumerate(paths.groups) if max(totals[g]) - min(totals[g]) > 1e-9]
    if not kept:
        return paths
    return _Paths(*([column[i] for i in kept] for column in attrs.astuple(paths, recurse=False)))


def _padded(rows: Sequence[Sequence[int | float]], width: int, fill: int | float) -> Tensor:
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def _is_first(owner: Int64[Tensor, "rows tokens"]) -> Bool[Tensor, "rows tokens"]:
    """True at the first place (in row order) that each token of the tree appears at."""
    flat = owner.flatten()
    places = torch.arange(flat.numel())
    first = torch.full((int(flat.max()) + 1,), flat.numel())
    real = flat >= 0
    first = first.scatter_reduce(0, flat[real], places[real], "amin")
    result = torch.zeros_like(real)
    result[first[first < flat.numel()]] = True
    return result.view_as(owner)


def _group_means(
    values: Float[Tensor, " rows"], groups: Int64[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    return mean_over_shared(values[:, None], groups[:, None])[:, 0]
