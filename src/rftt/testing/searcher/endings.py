"""Searches with a budget that is larger than the problem: that they end, and, on request, that they
find the best leaf."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from attrs import evolve

from rftt.interfaces import Verdict
from rftt.search.budget import Budget, SearchConfig
from rftt.search.engine.engine import resume_search, run_search
from rftt.search.searcher import Searcher
from rftt.testing.finite.problem import FiniteProblem
from rftt.testing.finite.tabular import Reply, TabularPolicy
from rftt.testing.searcher.promises import BestLeafBroken, EndsBroken
from rftt.testing.searcher.watched import Watched
from rftt.tokens.grammar import Function, Grammar

_MAX_DEPTH = 6

_GRAMMAR = Grammar(
    [Function("a", "do a"), Function("b", "do b"), Function("end", "end")],
    start=("a", "b"),
    followers={"a": ("a", "b", "end"), "b": ("a", "end")},
)


def _finite(ends: Mapping[str, float | None]) -> FiniteProblem:
    """Build a problem from its solutions, each given by the steps before its ``end``, and their scores.
    A step is a letter, and its function the same letter in lower case."""
    following: dict[tuple[str, ...], dict[str, str]] = {}
    for path in ends:
        for depth, name in enumerate(path):
            following.setdefault(tuple(path[:depth]), {})[name] = name.lower()
        following[tuple(path)] = {path: "end"}
    table = {
        path: [Reply(function, text, 1 / len(replies)) for text, function in replies.items()]
        for path, replies in following.items()
    }
    verdicts = {(*path, path): Verdict(score, path) for path, score in ends.items()}
    return FiniteProblem(TabularPolicy(_GRAMMAR, table), verdicts)


def ladder(rewards: tuple[float, float]) -> list[FiniteProblem]:
    """Return finite problems, the smallest first, so that what fails fails on a small one."""
    low, high = rewards
    return [
        _finite({"a": low}),
        _finite({"a": None}),
        _finite({"a": high, "b": low}),
        _finite({"a": low, "A": low}),
        _finite({"aa": low, "ab": None, "b": high}),
    ]


def check_endings(
    searcher: Searcher, waived: Collection[str], rewards: tuple[float, float], max_rounds: int
) -> None:
    """Raise the promise that is broken if a search goes on for ``max_rounds``, or goes on once it has
    ended. A strategy that plans with the budget's rollouts has nearly as many."""
    # Every round samples something, so this limit leaves no search of max_rounds.
    budget = Budget(rollouts=max(1, max_rounds - 1) if searcher.needs_rollout_limit else None)
    for finite in ladder(rewards):
        for seed in range(2):
            watched = Watched(searcher, waived, checks_trees=False)
            config = SearchConfig(budget, seed, _MAX_DEPTH)
            (tree,) = run_search(
                finite.problems(), watched, finite.policy, finite.verifier, config,
                on_round=lambda trees, finished: trees[0].rounds < max_rounds,
            )  # fmt: skip
            if tree.rounds >= max_rounds:
                found = (
                    f"the search goes on after {max_rounds} rounds, and the problem has "
                    f"{len(finite.leaves)} leaves; mark what is finished as exhausted, or let is_done "
                    "say what is enough"
                )
                watched.demand(tree, [EndsBroken(found)])
            rounds = tree.rounds
            more = evolve(config, budget=evolve(budget, policy_calls=rounds + 1))
            resume_search([tree], watched, finite.policy, finite.verifier, more)
            if tree.rounds > rounds:
                found = "the search had ended, and asked for more when it was resumed"
                watched.demand(tree, [EndsBroken(found)])


def check_best_leaf(
    searcher: Searcher, waived: Collection[str], finite: FiniteProblem, max_rounds: int
) -> None:
    """Raise the promise that is broken if the best leaf is not found within ``max_rounds``."""
    watched = Watched(searcher, waived, checks_trees=False)
    rollouts = max_rounds if searcher.needs_rollout_limit else None
    config = SearchConfig(Budget(rollouts, policy_calls=max_rounds), max_depth=finite.depth)
    (tree,) = run_search(finite.problems(), watched, finite.policy, finite.verifier, config)
    scores = [v.score for v in tree.verdict if v is not None and v.score is not None]
    found = max(scores, default=None)
    if found != finite.best_score:
        path = " > ".join(finite.best_leaf or ())
        what = f"the best leaf, {path}, has the score {finite.best_score}; the search found {found}"
        watched.demand(tree, [BestLeafBroken(what)])
