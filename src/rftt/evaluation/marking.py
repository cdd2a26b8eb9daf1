"""Choose an answer from each tree; mark it and every rollout by what was kept from the search."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

from attrs import evolve

from rftt.evaluation.results import Result, Rollout
from rftt.interfaces import State, Verifier
from rftt.problems.problem import Problem
from rftt.search.answers.voting import Choice, Equivalence, answered, group_answers
from rftt.search.tree.tree import SearchTree
from rftt.search.verdicts import check_verdicts

_log = logging.getLogger(__name__)

Marks = dict[int, bool | None]
"""By node, whether the answer there is right; ``None`` if that could not be decided."""


def mark_trees(
    problems: Sequence[Problem],
    trees: Sequence[SearchTree],
    verifier: Verifier,
    choose: Choice,
    marker: Verifier | None,
    seed: int,
) -> list[Result]:
    """Return one result a problem.

    Args:
        problems: with what the search did not see.
        trees: one a problem, in order.
        verifier: its ``equivalent`` groups answers, and marks them where there is no marker.
        choose: chooses an answer from a tree.
        marker: judges the solutions of all answers, in one call: right is a score of 1 or more.
        seed: of the search.

    Raises:
        ValueError: if there is a marker, and ``choose`` gives an answer that no solution of the tree
            has.
    """
    judged = None if marker is None else _judge(problems, trees, marker)
    results = []
    for place, (problem, tree) in enumerate(zip(problems, trees, strict=True)):
        equivalent = cache(verifier.equivalent)
        chosen = choose(tree, equivalent)
        right: bool | None = None
        if judged is not None:
            marks = judged[place]
            if chosen is not None:
                right = marks[_node_of(tree, chosen)]
        else:
            gold = problem.answer
            assert gold is not None
            marks = {node: equivalent(gold, answer) for node, answer in answered(tree)}
            if chosen is not None:
                right = equivalent(gold, chosen)
        rollouts = _rollouts(tree, marks, equivalent)
        results.append(Result(problem.id, seed, chosen, right, tree.tokens, rollouts))
    return results


def _judge(problems: Sequence[Problem], trees: Sequence[SearchTree], marker: Verifier) -> list[Marks]:
    """Have the marker judge each solution with an answer, its problem whole again."""
    places = [(number, node) for number, tree in enumerate(trees) for node in dict(answered(tree))]
    states = [State(problems[number], trees[number].state(node).steps) for number, node in places]
    verdicts = check_verdicts(marker, states) if states else []
    marks: list[Marks] = [{} for _ in trees]
    for (number, node), verdict in zip(places, verdicts, strict=True):
        marks[number][node] = None if verdict.score is None else verdict.score >= 1
    return marks


def _node_of(tree: SearchTree, chosen: str) -> int:
    """Return the end of the first solution with the chosen answer."""
    for node, answer in answered(tree):
        if answer.strip() == chosen.strip():
            return node
    raise ValueError(
        f"problem {tree.problem.id!r}: the answer {chosen!r} was chosen, and no rollout of the tree has "
        "it; a marker judges whole solutions, so choose an answer as a rollout has it"
    )


def _rollouts(tree: SearchTree, marks: Marks, equivalent: Equivalence) -> tuple[Rollout, ...]:
    groups = group_answers(answered(tree), equivalent)
    group_of = {node: number for number, group in enumerate(groups) for node, _ in group}
    found: list[Rollout] = []
    for node in tree.ends():
        verdict = tree.verdict[node]
        if verdict is None:
            rollout = Rollout(None, None)
        elif verdict.answer is None or not tree.is_finished(node):
            rollout = Rollout(None, None, verdict.score)
        else:
            rollout = Rollout(verdict.answer, marks[node], verdict.score, group_of[node])
        found += [rollout] * tree.ended[node]
    return tuple(found)


def blind(problem: Problem) -> Problem:
    """Return the problem as a search may see it: without gold answer and metadata."""
    return evolve(problem, answer=None, metadata={})


def log_undecided(results: Sequence[Result], marker: Verifier | None) -> None:
    """Warn of chosen answers that could not be marked."""
    undecided = sum(result.answer is not None and result.right is None for result in results)
    if not undecided:
        return
    if marker is None:
        _log.warning(
            "%d of %d answers could not be compared with their gold answers; they count as not right",
            undecided, len(results),
        )  # fmt: skip
    else:
        _log.warning(
            "the marker abstained on %d of %d answers; they count as not right", undecided, len(results)
        )
