"""Trees of known outcomes, without a search."""

from __future__ import annotations

from collections.abc import Sequence

from rftt import Grammar, Problem, SearchTree, Step, Verdict


def problems(count: int) -> list[Problem]:
    return [Problem(f"p{i}", f"what is {i}?", "1") for i in range(count)]


def outcome_tree(
    problem: Problem,
    scores: Sequence[float | None],
    *,
    step_scores: Sequence[tuple[float, float]] | None = None,
    truncated: bool = False,
    first_id: int = 10,
) -> SearchTree:
    """A tree of one rollout a score; ``None`` is an end without a verdict.

    Each is a ``next_step`` whose opener was forced, and an ``output`` whose last id no policy drew.
    """
    tree = SearchTree(problem, Grammar.default())
    for number, score in enumerate(scores):
        first = first_id + 10 * number
        step = tree.attach(
            0,
            Step(
                "next_step", f"{first}", [1, first, first + 1], [-0.5, -0.25, -0.125],
                [False, True, True], False, body_start=1,
            ),
        )  # fmt: skip
        end = tree.attach(
            step,
            Step("output", "1", [2, 3, 4], [-1.0, -2.0, -3.0], [True, True, False], True, truncated,
                 body_start=1),
        )  # fmt: skip
        if score is not None:
            tree.verdict[end] = Verdict(
                score, "1", step_scores=None if step_scores is None else step_scores[number]
            )
        tree.backup(end, score)
    return tree
