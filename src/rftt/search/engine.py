"""The engine: grows many trees at once, in rounds of one batched policy call each.

A strategy is written for one tree. In each round the engine collects what every live tree asks
for, makes one policy call, attaches the steps, has the ends judged, and tells each strategy. A tree
that is finished makes room for the next problem.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rftt.interfaces import Policy, Verifier
from rftt.problems.problem import Problem
from rftt.search.budget import Budget
from rftt.search.rounds import Rounds, distinct_ids
from rftt.search.run_directory import RunDirectory, describe
from rftt.search.searcher import Searcher
from rftt.search.sources import Fresh, Recorded
from rftt.search.tree import SearchTree

OnRound = Callable[[Sequence[SearchTree], int], bool | None]
"""Called after each round with all trees and how many are finished; returning ``False`` stops."""


def run_search(
    problems: Sequence[Problem],
    searcher: Searcher,
    policy: Policy,
    verifier: Verifier,
    *,
    budget: Budget,
    seed: int = 0,
    max_depth: int = 18,
    max_tokens: int = 512,
    at_once: int | None = None,
    folder: Path | str | None = None,
    on_round: OnRound | None = None,
) -> list[SearchTree]:
    """Search all problems and return their trees, in order.

    Args:
        problems: what to solve; ids must be distinct, because they seed the trees' random streams.
        searcher: the strategy.
        policy: samples steps, for all live trees in one call a round.
        verifier: judges where samples end.
        budget: what each tree may spend.
        seed: with a problem's id and the policy it determines the tree, whatever else is searched
            alongside.
        max_depth: most steps from the question to an answer.
        max_tokens: most tokens in one sample.
        at_once: trees that are grown side by side; the others wait for one of them to finish. ``None``
            is all of them.
        folder: run directory. Each finished round is written there; a search that was killed and is
            started again with the same arguments goes on after the last of them, and ends with the
            same trees.
        on_round: hook to watch or stop; trees so far are returned.

    Raises:
        ValueError: if two problems share an id, the policy's reply breaks the grammar or a limit, or
            ``folder`` is of another search.
    """
    trees = [SearchTree(problem, policy.grammar, max_depth) for problem in problems]
    return grow(
        trees, searcher, policy, verifier,
        budget=budget, seed=seed, max_tokens=max_tokens, at_once=at_once, folder=folder,
        on_round=on_round,
    )  # fmt: skip


def grow(
    trees: list[SearchTree],
    searcher: Searcher,
    policy: Policy,
    verifier: Verifier,
    *,
    budget: Budget,
    seed: int = 0,
    max_tokens: int = 512,
    at_once: int | None = None,
    folder: Path | str | None = None,
    on_round: OnRound | None = None,
) -> list[SearchTree]:
    """Continue to search trees, new or loaded from a file, until the budget is spent.

    Arguments are as in :func:`run_search`. A tree continued with the same arguments ends as if it had
    never been interrupted.
    """
    ids = distinct_ids([tree.problem for tree in trees])
    directory = None
    if folder is not None:
        arguments = {
            "problems": ids, "nodes": [len(tree) for tree in trees], "searcher": describe(searcher),
            "budget": describe(budget), "seed": seed, "max_tokens": max_tokens, "at_once": at_once,
            "max_depth": [tree.max_depth for tree in trees],
        }  # fmt: skip
        directory = RunDirectory(folder, arguments)
    recorded = directory.recorded() if directory else iter(())
    rounds = Rounds(searcher, budget, seed, max_tokens)
    deadline = budget.deadline()
    live: list[SearchTree] = []
    waiting = list(reversed(trees))
    while time.monotonic() < deadline:
        source = Recorded(record) if (record := next(recorded, None)) else Fresh(policy, verifier)
        asked = rounds.ask(live, waiting, at_once or len(trees), source)
        live = [wish.tree for wish in asked]
        if not asked:
            break
        rounds.settle(asked, source)
        if directory and isinstance(source, Fresh):
            directory.append(source.round())
        if on_round is not None and on_round(trees, len(trees) - len(live) - len(waiting)) is False:
            break
    return trees
