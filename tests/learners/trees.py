"""Trees for learners: searched ones of a tiny model, and ones made by hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache

import torch

from rftt import (
    MCTS,
    Budget,
    FunctionalPolicy,
    Learner,
    Problem,
    SearchConfig,
    SearchTree,
    State,
    Step,
    Verdict,
    Verifier,
    run_search,
)  # fmt: skip
from rftt.learners.experience import Experience
from tests.models import functional_policy

BODY_IDS = (20, 21, 22)
"""Ids that a brief policy may write in a body."""

ABSTAINED = Verdict(None, reason="the server is down")


class CountsSteps(Verifier):
    """Scores 1 for an even number of steps; abstains on one step."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        counts = [len(state.steps) for state in states]
        return [Verdict(None if n == 1 else float(n % 2 == 0)) for n in counts]


@cache
def searched() -> tuple[FunctionalPolicy, tuple[SearchTree, ...]]:
    """A policy, and three trees that it grew; they branch below the question."""
    policy = functional_policy(brief=True)
    problems = [Problem(f"p{i}", f"{i}+3", "1") for i in range(3)]
    config = SearchConfig(Budget(rollouts=8), max_tokens=60)
    trees = run_search(problems, MCTS(expansion="sample", width=2), policy, CountsSteps(), config)
    assert any(len(set(tree.parent)) > 4 for tree in trees)
    return policy, tuple(trees)


def model_of(policy: FunctionalPolicy) -> torch.nn.Module:
    model: torch.nn.Module = policy.sampler.model  # type: ignore[attr-defined]
    return model


def other_model(policy: FunctionalPolicy, scale: float = 0.05) -> torch.nn.Module:
    """A model near the policy's: a reference, or a policy that has been tuned."""
    torch.manual_seed(5)
    model = copy.deepcopy(model_of(policy))
    for parameter in model.parameters():
        parameter.data += scale * torch.randn_like(parameter)
    return model


def hand_made(
    paths: Sequence[tuple[list[int], Verdict | float | None]],
    policy: FunctionalPolicy,
    name: str = "h",
) -> SearchTree:
    """A tree of independent one-step paths with given bodies, as numbers of body ids, and scores or
    verdicts; with ``None``, the budget cut the path and it was not judged."""
    tree = SearchTree(Problem(name, "1+1", "2"), policy.grammar)
    for body, scored in paths:
        ids = (policy.tokens.openers["next_step"], *(BODY_IDS[i] for i in body))
        n = len(ids)
        step = Step(
            "next_step", "", ids, (-1.0,) * n, (True,) * n, terminal=True,
            truncated=scored is None, body_start=1,
        )  # fmt: skip
        node = tree.attach(0, step)
        verdict = Verdict(scored) if isinstance(scored, float) else scored
        tree.verdict[node] = verdict
        tree.backup(node, verdict.score if verdict else None)
    return tree


def gradient(
    learner: Learner, parts: Sequence[Experience], model: torch.nn.Module
) -> tuple[float, torch.Tensor]:
    """The sum of losses, and all gradients in one vector."""
    model.zero_grad()
    total = 0.0
    for part in parts:
        output = learner.loss(model, part)
        output.loss.backward()
        total += float(output.loss.detach())
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
