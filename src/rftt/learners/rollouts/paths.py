"""From the credit of paths to experience: one sequence a path, each step's credit at its tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import torch

from rftt.interfaces import State, Step
from rftt.learners.credit.paths import PathCredit
from rftt.learners.experience import Experience, TokenSequence, pad_sequences
from rftt.learners.forward.states import automaton_states
from rftt.learners.learner import TokenPolicy
from rftt.search.tree.tree import SearchTree


def path_experience(
    policy: TokenPolicy,
    trees: Sequence[SearchTree],
    credits: Sequence[Sequence[PathCredit]],
) -> Experience:
    """Lay out credited paths as sequences: the ids of the question and of each step.

    Tokens that the policy did not draw are no actions. The totals are of this process alone.

    Raises:
        ValueError: naming the tree and the path, if an advantage, a weight or a log-probability is not
            finite, or a path's credit is not one of each for every step.
    """
    sequences: list[TokenSequence] = []
    starts: list[int] = []
    for tree, paths in zip(trees, credits, strict=True):
        question = policy.context(State(tree.problem)) if paths else ()
        for path in paths:
            sequences.append(_sequence(tree, path, question))
            starts.append(len(question))
    batch = pad_sequences(sequences)
    if policy.automaton is None or not sequences:
        return batch
    states = automaton_states(batch.ids, batch.attention_mask, torch.tensor(starts), policy.automaton)
    functional = torch.isin(batch.ids, policy.automaton.special_ids.to(batch.ids.device))
    return attrs.evolve(
        batch, states=states, functional_mask=functional & batch.action_mask
    ).with_totals()


def _sequence(tree: SearchTree, path: PathCredit, question: tuple[int, ...]) -> TokenSequence:
    steps = tree.state(path.end).steps
    if len(path.advantages) != len(steps):
        raise ValueError(
            f"tree {tree.problem.id!r}, path to node {path.end}: credit for {len(path.advantages)} "
            f"steps; the path has {len(steps)}"
        )
    ids, action_mask = list(question), [False] * len(question)
    log_probs = [0.0] * len(question)
    advantages, weights = list(log_probs), list(log_probs)
    for step, advantage, weight in zip(steps, path.advantages, path.weights, strict=True):
        _check_finite(tree, path, step, advantage, weight)
        ids += step.ids
        action_mask += step.action_mask
        log_probs += step.log_probs
        advantages += [advantage] * len(step.ids)
        weights += [weight] * len(step.ids)
    return TokenSequence(ids, action_mask, log_probs, advantages, weights, path.count)


def _check_finite(
    tree: SearchTree, path: PathCredit, step: Step, advantage: float, weight: float
) -> None:
    numbers = {"advantage": advantage, "weight": weight, "sum of log_probs": math.fsum(step.log_probs)}
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(
                f"tree {tree.problem.id!r}, path to node {path.end}, step {step.function!r}: its {name} "
                f"is {number}; nothing can be learned from that"
            )
