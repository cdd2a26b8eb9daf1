"""Accuracy on held-out problems, without a look at gold answers until the marking."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve, frozen

from rftt.interfaces import Policy, Verifier
from rftt.problems.problem import Problem
from rftt.search.answers.voting import Choice, majority
from rftt.search.budget import SearchConfig
from rftt.search.engine.engine import run_search
from rftt.search.engine.loop import OnCompletions, OnRound
from rftt.search.searcher import Searcher
from rftt.search.tree.tree import SearchTree

_log = logging.getLogger(__name__)


@frozen
class Evaluation:
    """How many problems were answered right.

    Attributes:
        marks: one entry a problem, in order.
        functions: steps by function.
        tokens: sampled ids.
    """

    marks: tuple[bool, ...]
    functions: dict[str, int]
    tokens: int

    @property
    def accuracy(self) -> float:
        """The share of problems that were answered right."""
        return sum(self.marks) / len(self.marks)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the accuracy."""
        return wilson(sum(self.marks), len(self.marks))


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Return Wilson's score interval for a proportion (1927)."""
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * (share * (1 - share) / trials + z * z / (4 * trials * trials)) ** 0.5
    scale = 1 + z * z / trials
    return (centre - spread) / scale, (centre + spread) / scale


def evaluate(
    problems: Sequence[Problem],
    searcher: Searcher,
    policy: Policy,
    verifier: Verifier,
    config: SearchConfig,
    *,
    choose: Choice = majority,
    directory: Path | str | None = None,
    on_round: OnRound | None = None,
    on_completions: OnCompletions | None = None,
) -> tuple[Evaluation, list[SearchTree]]:
    """Search problems whose answers have been taken away, choose an answer from each tree, and mark it.

    Args:
        problems: all with a gold answer.
        searcher, policy, config, directory, on_round, on_completions: as in
            :func:`~rftt.search.engine.engine.run_search`.
        verifier: any verifier; its ``equivalent`` groups answers for votes, and marks the chosen answer
            against the gold one.
        choose: chooses an answer from a tree, given ``verifier.equivalent``.

    Raises:
        ValueError: naming a problem without an answer.
    """
    for problem in problems:
        if problem.answer is None:
            raise ValueError(f"problem {problem.id!r} has no answer: it cannot be marked")
    blind = [evolve(problem, answer=None, metadata={}) for problem in problems]
    trees = run_search(
        blind, searcher, policy, verifier, config,
        directory=directory, on_round=on_round, on_completions=on_completions,
    )  # fmt: skip
    marks = []
    undecided = 0
    for problem, tree in zip(problems, trees, strict=True):
        answer = choose(tree, verifier.equivalent)
        assert problem.answer is not None
        is_right = False if answer is None else verifier.equivalent(problem.answer, answer)
        undecided += is_right is None
        marks.append(is_right is True)
    if undecided:
        _log.warning(
            "%d of %d answers could not be compared with their gold answers; they count as not right",
            undecided, len(problems),
        )  # fmt: skip
    functions = Counter(step.function for tree in trees for step in tree.step if step is not None)
    return Evaluation(tuple(marks), dict(functions), sum(tree.tokens for tree in trees)), trees
