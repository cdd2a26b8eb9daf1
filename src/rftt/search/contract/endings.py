"""Searches without a budget: that they end, and, on request, that they find the best leaf."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rftt.finite.problem import FiniteProblem
from rftt.finite.tabular import Reply, TabularPolicy
from rftt.interfaces import Verdict
from rftt.search.budget import Budget
from rftt.search.contract.promises import BestLeafBroken, EndsBroken
from rftt.search.contract.watched import Watched
from rftt.search.engine import grow, run_search
from rftt.search.searcher import Searcher
from rftt.tokens.grammar import Function, Grammar

_MAX_DEPTH = 6

_GRAMMAR = Grammar(
    [Function("a", "do a"), Function("b", "do b"), Function("end", "end")],
    start=("a", "b"),
    followers={"a": ("a", "b", "end"), "b": ("a", "end")},
)


def _finite(ends: Mapping[str, float | None]) -> FiniteProblem:
    """A problem of which each solution is given by its steps before the ``end``, with its score. A step
    is a letter, and its function the same letter in lower case."""
    after: dict[tuple[str, ...], dict[str, str]] = {}
    for path in ends:
        for depth, name in enumerate(path):
            after.setdefault(tuple(path[:depth]), {})[name] = name.lower()
        after[tuple(path)] = {path: "end"}
    table = {
        path: [Reply(function, text, 1 / len(replies)) for text, function in replies.items()]
        for path, replies in after.items()
    }
    verdicts = {(*path, path): Verdict(score, path) for path, score in ends.items()}
    return FiniteProblem(TabularPolicy(_GRAMMAR, table), verdicts)


def ladder(rewards: tuple[float, float]) -> list[FiniteProblem]:
    """Finite problems from the smallest on: the first on which something fails is a small one."""
    low, high = rewards
    return [
        _finite({"a": low}),
        _finite({"a": None}),
        _finite({"a": high, "b": low}),
        _finite({"a": low, "A": low}),
        _finite({"aa": low, "ab": None, "b": high}),
    ]


def hold_endings(
    searcher: Searcher, waived: Collection[str], rewards: tuple[float, float], most_rounds: int
) -> None:
    """Raise the promise that is broken if there is a search without a budget that does not end within
    ``most_rounds``, or that goes on once it has ended."""
    for finite in ladder(rewards):
        for seed in range(2):
            watched = Watched(searcher, waived, looks_at_trees=False)
            (tree,) = run_search(
                finite.problems(), watched, finite.policy, finite.verifier,
                budget=Budget(), seed=seed, max_depth=_MAX_DEPTH,
                on_round=lambda trees, finished: trees[0].rounds < most_rounds,
            )  # fmt: skip
            if tree.rounds == most_rounds:
                found = (
                    f"the search goes on after {most_rounds} rounds, and there are only so many leaves: "
                    f"{len(finite.leaves)}; close what is finished, or let is_done say what is enough"
                )
                watched.demand(tree, [EndsBroken(found)])
            rounds = tree.rounds
            grow(
                [tree], watched, finite.policy, finite.verifier,
                budget=Budget(policy_calls=rounds + 1), seed=seed,
            )  # fmt: skip
            if tree.rounds > rounds:
                found = "the search was over, and asked for more when it was taken up again"
                watched.demand(tree, [EndsBroken(found)])


def hold_best_leaf(
    searcher: Searcher, waived: Collection[str], finite: FiniteProblem, rounds: int
) -> None:
    """Raise the promise that is broken if the best leaf is not found in so many rounds."""
    watched = Watched(searcher, waived, looks_at_trees=False)
    (tree,) = run_search(
        finite.problems(), watched, finite.policy, finite.verifier,
        budget=Budget(policy_calls=rounds), max_depth=finite.depth,
    )  # fmt: skip
    scores = [v.score for v in tree.verdict if v is not None and v.score is not None]
    found = max(scores, default=None)
    if found != finite.best_score:
        path = " > ".join(finite.best_leaf or ())
        what = f"the best leaf, {path}, has the score {finite.best_score}; the search found {found}"
        watched.demand(tree, [BestLeafBroken(what)])
