"""Accuracy on held-out problems, without a look at gold answers until the marking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from attrs import evolve, frozen

from rftt.interfaces import Policy
from rftt.problems.problem import Problem
from rftt.search.answers import majority
from rftt.search.budget import Budget
from rftt.search.engine import OnRound, run_search
from rftt.search.searcher import Searcher
from rftt.search.tree import SearchTree
from rftt.verifiers.math import MathVerifier


@frozen
class Evaluation:
    """``marks`` has one entry a problem, in order; ``interval`` is Wilson's at 95%. ``functions``
    counts steps by function; ``tokens`` counts sampled ids."""

    marks: tuple[bool, ...]
    functions: dict[str, int]
    tokens: int

    @property
    def accuracy(self) -> float:
        return sum(self.marks) / len(self.marks)

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(sum(self.marks), len(self.marks))


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for a proportion (1927)."""
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * (share * (1 - share) / trials + z * z / (4 * trials * trials)) ** 0.5
    scale = 1 + z * z / trials
    return (centre - spread) / scale, (centre + spread) / scale


def evaluate(
    problems: Sequence[Problem],
    searcher: Searcher,
    policy: Policy,
    verifier: MathVerifier,
    *,
    rollouts: int,
    seed: int = 0,
    max_tokens: int = 512,
    choose: Callable[[SearchTree], str | None] = majority,
    on_round: OnRound | None = None,
) -> tuple[Evaluation, list[SearchTree]]:
    """Search problems whose answers have been taken away, choose an answer from each tree, and mark it.

    Raises ``ValueError`` naming a problem without an answer.
    """
    for problem in problems:
        if problem.answer is None:
            raise ValueError(f"problem {problem.id!r} has no answer: it cannot be marked")
    blind = [evolve(problem, answer=None) for problem in problems]
    trees = run_search(
        blind, searcher, policy, verifier,
        budget=Budget(rollouts=rollouts), seed=seed, max_tokens=max_tokens, on_round=on_round,
    )  # fmt: skip
    marks = []
    for problem, tree in zip(problems, trees, strict=True):
        answer = choose(tree)
        marks.append(answer is not None and verifier.compare(problem.answer, answer).is_equal is True)
    functions = Counter(s.function for tree in trees for s in tree.segment if s is not None)
    return Evaluation(tuple(marks), dict(functions), sum(t.tokens for t in trees)), trees
