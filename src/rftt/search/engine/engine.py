"""Searching: :func:`run_search` begins on problems, :func:`resume_search` goes on with trees."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rftt.interfaces import Policy, Verifier
from rftt.problems.problem import Problem
from rftt.search.answers.unanswered import warn_unanswered
from rftt.search.budget import SearchConfig
from rftt.search.engine.loop import OnCompletions, OnRound, SearchLoop
from rftt.search.engine.run_directory import RunDirectory
from rftt.search.searcher import Searcher
from rftt.search.tree.tree import SearchTree

_log = logging.getLogger(__name__)


def run_search(
    problems: Sequence[Problem],
    searcher: Searcher,
    policy: Policy,
    verifier: Verifier,
    config: SearchConfig,
    *,
    directory: Path | str | None = None,
    on_round: OnRound | None = None,
    on_completions: OnCompletions | None = None,
) -> list[SearchTree]:
    """Search all problems and return their trees, in order.

    Args:
        problems: what to solve; ids must be distinct, because they seed the trees' random streams.
        searcher: the strategy.
        policy: samples steps, for all trees in one call a round.
        verifier: judges where completions end, for all trees in one call a round.
        config: the budget of each tree, and other settings.
        directory: run directory. Each finished round is written there. A search that was killed and is
            started again with the same arguments goes on after the last of them, and ends with the same
            trees.
        on_round: hook to watch or stop after each round; the trees so far are returned.
        on_completions: hook to watch completions as they arrive within a round.

    Raises:
        TypeError: naming the argument that is not what it should be, such as a class in place of an
            instance; or the strategy or the verifier that returns something else than it should.
        ValueError: if two problems share an id, the strategy or the policy's completion breaks the
            grammar or a limit, or ``directory`` is of another search.
        BlockingIOError: if another process is searching in ``directory``.
    """
    _check_parts(searcher, policy, verifier, config)
    if not isinstance(problems, Sequence):
        raise TypeError(f"problems: {problems!r} is not a sequence of problems")
    for place, problem in enumerate(problems):
        if not isinstance(problem, Problem):
            raise TypeError(f"problems[{place}]: {problem!r} is not a Problem")
    trees = [SearchTree(problem, policy.grammar, config.max_depth) for problem in problems]
    return resume_search(
        trees, searcher, policy, verifier, config,
        directory=directory, on_round=on_round, on_completions=on_completions,
    )  # fmt: skip


def resume_search(
    trees: Sequence[SearchTree],
    searcher: Searcher,
    policy: Policy,
    verifier: Verifier,
    config: SearchConfig,
    *,
    directory: Path | str | None = None,
    on_round: OnRound | None = None,
    on_completions: OnCompletions | None = None,
) -> list[SearchTree]:
    """Continue to search trees, new or loaded from a file, until the budget is spent.

    Arguments and errors are those of :func:`run_search`. A tree that is continued with the same
    arguments ends as if it had never been interrupted.
    """
    trees = list(trees)
    _check_parts(searcher, policy, verifier, config)
    _check_trees(trees, searcher, config)
    for tree in trees:
        tree.budget = config.budget
    record = None if directory is None else RunDirectory(directory)
    loop = SearchLoop(trees, searcher, policy, verifier, config, record, on_round, on_completions)
    with record or nullcontext():
        if record is not None:
            record.check_identity(trees, searcher, policy, verifier, config)
        if loop.replay():
            loop.run()
    if loop.cut:
        _log.info("the budget cut %d completions short; they were not judged", loop.cut)
    warn_unanswered(trees)
    return trees


def _check_parts(searcher: Searcher, policy: Policy, verifier: Verifier, config: SearchConfig) -> None:
    for name, part, kind, example in (
        ("searcher", searcher, Searcher, "MCTS()"),
        ("policy", policy, Policy, "load_policy(...)"),
        ("verifier", verifier, Verifier, "MathVerifier()"),
        ("config", config, SearchConfig, "SearchConfig(Budget(rollouts=16))"),
    ):
        if not isinstance(part, kind):
            raise TypeError(
                f"{name}: {part!r} is not a {kind.__name__}; give an instance, such as {example}"
            )


def _check_trees(trees: Sequence[SearchTree], searcher: Searcher, config: SearchConfig) -> None:
    ids = [tree.problem.id for tree in trees]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ValueError(f"two problems share the id {twice!r}: ids seed random streams and must differ")
    if searcher.needs_rollout_limit and config.budget.rollouts is None:
        raise ValueError(
            f"{type(searcher).__name__} plans with the number of rollouts: give Budget(rollouts=...)"
        )
    for tree in trees:
        if tree.max_depth != config.max_depth:
            raise ValueError(
                f"tree {tree.problem.id!r} was searched with max_depth={tree.max_depth}; "
                f"the config has {config.max_depth}"
            )
