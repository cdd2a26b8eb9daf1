"""Searches with a budget that is larger than the problem: that they end, with their budget at the
latest, and, on request, that they find the best leaf."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import evolve

from rftt.interfaces import Verdict
from rftt.problems.problem import Problem
from rftt.search.budget import Budget, SearchConfig
from rftt.search.engine.engine import resume_search, run_search
from rftt.testing.finite.problem import FiniteProblem
from rftt.testing.finite.tabular import Reply, TabularPolicy
from rftt.testing.searcher.bench import Bench
from rftt.testing.searcher.calls.watched import Watched
from rftt.testing.searcher.promises import BestLeafBroken, EndsBroken
from rftt.testing.searcher.searches.endless import EndlessPolicy, FirstStepVerifier
from rftt.tokens.grammar import Function, Grammar

_MAX_DEPTH = 6
_ROLLOUTS_A_ROUND: Final = 30
"""Rollouts for each round that a search may take, on average."""
_LIMIT: Final = 8
"""Rollouts of a search that is compared with one that has three times as many."""

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


def check_endings(bench: Bench) -> None:
    """Raise the promise that is broken if a search goes on for ``max_rounds``, or goes on once it has
    ended. A strategy that plans with the budget's rollouts has nearly as many."""
    if EndsBroken.promise in bench.skipped:
        return
    rewards, max_rounds = bench.settings.rewards, bench.settings.max_rounds
    max_rollouts = _ROLLOUTS_A_ROUND * max_rounds
    limit = max(1, max_rounds - 1) if bench.needs_rollout_limit else None
    # Every round samples something, so this limit leaves no search of max_rounds.
    budget = Budget(rollouts=limit)
    for finite in ladder(rewards):
        for seed in range(2):
            watched = Watched(bench.fresh(), bench.skipped, checks_trees=False)
            config = SearchConfig(budget, seed, _MAX_DEPTH)
            (tree,) = run_search(
                finite.problems(), watched, finite.policy, finite.verifier, config,
                on_round=lambda trees, finished: (
                    trees[0].rounds < max_rounds and trees[0].rollouts < max_rollouts
                ),
            )  # fmt: skip
            if tree.rounds >= max_rounds or tree.rollouts >= max_rollouts:
                found = (
                    f"the search goes on after {tree.rounds} rounds with {tree.rollouts} rollouts, and "
                    f"the problem has {len(finite.leaves)} leaves; mark what is finished as exhausted, "
                    "or let is_done say what is enough"
                )
                watched.demand(tree, [EndsBroken(found)])
            rounds = tree.rounds
            more = evolve(config, budget=evolve(budget, policy_calls=rounds + 1))
            resume_search([tree], watched, finite.policy, finite.verifier, more)
            if tree.rounds > rounds:
                found = "the search had ended, and asked for more when it was resumed"
                watched.demand(tree, [EndsBroken(found)])


def check_plans(bench: Bench) -> None:
    """Raise the promise that is broken if a strategy that plans with the budget's rollouts leaves some
    of them, and would not with more.

    It may end before they are spent, once a vote is settled for example, but then for reasons of its
    own: a larger limit changes nothing.
    """
    if not bench.needs_rollout_limit or EndsBroken.promise in bench.skipped:
        return
    low, high = bench.settings.rewards
    for favourite in EndlessPolicy.names:
        verifier = FirstStepVerifier.favouring(favourite, low, high)
        trees = []
        for rollouts in (_LIMIT, 3 * _LIMIT):
            watched = Watched(bench.fresh(), bench.skipped, checks_trees=False)
            problem = Problem("endless", "what comes first?")
            config = SearchConfig(Budget(rollouts))
            trees += run_search([problem], watched, EndlessPolicy(), verifier, config)
        small, large = trees
        if small.rollouts < _LIMIT and large.rollouts > small.rollouts:
            found = (
                f"of {_LIMIT} rollouts {small.rollouts} are spent, and of {3 * _LIMIT} rollouts "
                f"{large.rollouts}: the search ends before its budget does, and not because nothing is "
                "left to search; plan with tree.budget.rollouts - tree.rollouts"
            )
            watched.demand(small, [EndsBroken(found)])
        watched = Watched(bench.fresh(), bench.skipped, checks_trees=False)
        resume_search([small], watched, EndlessPolicy(), verifier, SearchConfig(Budget(3 * _LIMIT)))
        if small.rollouts <= _LIMIT < large.rollouts:
            found = (
                f"a search ended with its budget of {_LIMIT} rollouts, and asks for nothing when it is "
                f"resumed with {3 * _LIMIT}, of which a new search spends {large.rollouts}"
            )
            watched.demand(small, [EndsBroken(found)])


def check_best_leaf(bench: Bench, finite: FiniteProblem) -> None:
    """Raise the promise that is broken if the best leaf is not found within ``max_rounds``."""
    watched = Watched(bench.fresh(), bench.skipped, checks_trees=False)
    rollouts = bench.settings.max_rounds if bench.needs_rollout_limit else None
    budget = Budget(rollouts, policy_calls=bench.settings.max_rounds)
    config = SearchConfig(budget, max_depth=finite.depth)
    (tree,) = run_search(finite.problems(), watched, finite.policy, finite.verifier, config)
    scores = [v.score for v in tree.verdict if v is not None and v.score is not None]
    found = max(scores, default=None)
    if found != finite.best_score:
        path = " > ".join(finite.best_leaf or ())
        what = f"the best leaf, {path}, has the score {finite.best_score}; the search found {found}"
        watched.demand(tree, [BestLeafBroken(what)])
