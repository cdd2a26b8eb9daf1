"""The finite problem, the trees and the models that a learner's promises are tried on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from attrs import field, frozen

from rftt.interfaces import State, Verdict
from rftt.learners.experience import Experience
from rftt.learners.learner import Learner, TokenPolicy
from rftt.learners.reference import Reference
from rftt.problems.problem import Problem
from rftt.samplers.sampling import SamplingParams
from rftt.search.budget import Budget, SearchConfig
from rftt.search.engine.engine import run_search
from rftt.search.searcher import Searcher
from rftt.search.strategies import MCTS, BestOfN
from rftt.search.tree.tree import SearchTree
from rftt.testing import copies
from rftt.testing.finite.model import FiniteModel, FinitePolicy
from rftt.testing.finite.problem import TabularVerifier, leaves
from rftt.testing.finite.spelled import SpelledPolicy
from rftt.testing.finite.tabular import Reply
from rftt.tokens.grammar import Function, Grammar

Build = Callable[[TokenPolicy, Reference], Learner]
"""Makes a learner for a policy and a frozen reference model."""

GRAMMAR: Final = Grammar(
    [Function("think", "think"), Function("tool", "use a tool"), Function("end", "answer")],
    start=("think", "tool", "end"),
    followers={"think": ("think", "tool", "end"), "tool": ("think", "end")},
)
_TABLE: Final = {
    (): [
        Reply("think", "a b", 0.3), Reply("think", "a", 0.2), Reply("tool", "ask : x", 0.2),
        Reply("tool", "ask : y", 0.3),
    ],
    ("a b",): [Reply("end", "one", 0.5), Reply("end", "two three", 0.5)],
    ("a",): [Reply("think", "c", 0.4), Reply("end", "two three", 0.3), Reply("tool", "ask : x", 0.3)],
    ("a", "c"): [Reply("end", "one", 0.5), Reply("end", "two three", 0.5)],
    ("a", "ask : x"): [Reply("end", "one", 0.6), Reply("end", "two three", 0.4)],
    ("ask : x",): [Reply("end", "one", 0.7), Reply("end", "two three", 0.3)],
    ("ask : y",): [Reply("end", "one", 0.2), Reply("end", "two three", 0.8)],
}  # fmt: skip
_SCORES: Final = {
    ("a b", "one"): 1.0, ("a b", "two three"): 0.0, ("a", "two three"): 0.25,
    ("a", "c", "one"): 0.0, ("a", "c", "two three"): 1.0, ("a", "ask : x", "one"): 1.0,
    ("a", "ask : x", "two three"): 0.0, ("ask : x", "one"): 0.0, ("ask : x", "two three"): 1.0,
    ("ask : y", "one"): 0.25, ("ask : y", "two three"): 1.0,
}  # fmt: skip
_TEMPERATURE: Final = 0.8
"""A temperature that is not 1 tells apart logits and what ids were drawn with."""
_DROPOUT: Final = 0.5
"""In train mode the model is another each time."""
_OFF_POLICY: Final = 0.3
"""The standard deviation of logits from the policy's, where the model is another: ratios from about 1/2
to 2, so that some are clipped."""
QUESTION: Final = "what is it?"


def verdicts(scores: Mapping[tuple[str, ...], float]) -> dict[tuple[str, ...], Verdict]:
    """Return verdicts with these scores; each step is scored too, as a process reward model does: the
    first with the score, the others with 0."""
    return {
        path: Verdict(score, path[-1], step_scores=(score, *[0.0] * (len(path) - 1)))
        for path, score in scores.items()
    }


@frozen(eq=False)
class Longer:
    """A policy whose question has more ids."""

    policy: FinitePolicy
    more: int
    automaton = property(lambda self: self.policy.automaton)
    sampling_params = property(lambda self: self.policy.sampling_params)

    def context(self, state: State) -> tuple[int, ...]:
        ids = self.policy.context(state)
        return ids[:1] * self.more + ids


@frozen(eq=False)
class Workbench:
    """What a learner is made from and tried on.

    Attributes:
        build: makes the learner.
        seed: decides the trees, the models and what the learner draws at random when it is made.
        policy: samples the trees.
    """

    build: Build
    seed: int
    policy: SpelledPolicy = field(
        factory=lambda: SpelledPolicy(GRAMMAR, _TABLE, SamplingParams(temperature=_TEMPERATURE))
    )

    def model(self, *, off_policy: bool = False) -> FiniteModel:
        """Return a model: of the policy, or of one that has moved away from it."""
        return self._moved(_OFF_POLICY if off_policy else 0.0, 1)

    def learner(self, policy: TokenPolicy | None = None, *, off_policy: bool = False) -> Learner:
        """Make a learner, always the same; its reference is the policy, or one that differs."""
        reference = self._moved(_OFF_POLICY if off_policy else 0.0, 2)
        reference.requires_grad_(False)
        torch.manual_seed(self.seed)
        return self.build(policy or self.policy, reference)

    def _moved(self, distance: float, number: int) -> FiniteModel:
        model = FiniteModel(self.policy, _TEMPERATURE, _DROPOUT)
        model.eval()
        generator = torch.Generator().manual_seed(self.seed * 2 + number)
        with torch.no_grad():
            model.table.add_(distance * torch.randn(model.table.shape, generator=generator))
        return model

    def batch(self, learner: Learner, model: FiniteModel, trees: Sequence[SearchTree]) -> Experience:
        """Return the experience of some trees, prepared."""
        return learner.prepare(model, learner.experience(trees))

    def trees(self, scores: Mapping[tuple[str, ...], float] = _SCORES) -> list[SearchTree]:
        """Search: rollouts that share nothing, that share what the policy drew, and that begin with
        functions which the searcher forced."""
        found: list[SearchTree] = []
        searchers = {"alone": BestOfN(), "sampled": MCTS(expansion="sample", width=2), "forced": MCTS()}
        for name, searcher in searchers.items():
            found += self.search(name, searcher, 2, 6, scores)
        return found

    def search(
        self, name: str, searcher: Searcher, number: int, rollouts: int,
        scores: Mapping[tuple[str, ...], float] = _SCORES,
    ) -> list[SearchTree]:  # fmt: skip
        """Return ``number`` trees; their problems are called ``name`` and a number."""
        problems = [Problem(f"{name}{i}", QUESTION) for i in range(number)]
        config = SearchConfig(Budget(rollouts=rollouts), seed=self.seed)
        return run_search(problems, searcher, self.policy, TabularVerifier(verdicts(scores)), config)

    def equal_trees(self, score: float) -> list[SearchTree]:
        """Search where every solution has the same score."""
        return self.trees(dict.fromkeys(leaves(self.policy), score))


def copied(trees: Sequence[SearchTree]) -> list[SearchTree]:
    """Return copies that can be edited."""
    return list(map(copies.copied, trees))
