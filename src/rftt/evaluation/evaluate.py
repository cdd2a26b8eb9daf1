"""Accuracy of one strategy, without a look at gold answers until the marking."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve

from rftt.evaluation.marking import blind, log_undecided, mark_trees
from rftt.evaluation.results import Evaluation, Result, evaluation_from_json, evaluation_to_json
from rftt.evaluation.settings import describe_settings, versions
from rftt.files import atomic_write
from rftt.fingerprint import difference
from rftt.interfaces import Policy, Verifier
from rftt.problems.problem import Problem
from rftt.search.answers.voting import Choice, majority
from rftt.search.budget import Budget, SearchConfig
from rftt.search.engine.engine import run_search
from rftt.search.engine.loop import OnCompletions
from rftt.search.searcher import Searcher
from rftt.search.strategies.best_of_n import BestOfN
from rftt.search.tree.tree import SearchTree

OnTrees = Callable[[Sequence[SearchTree]], None]
"""Called with the trees of a search, before they are forgotten."""


def evaluate(
    problems: Sequence[Problem],
    searcher: Searcher,
    policy: Policy,
    verifier: Verifier,
    config: SearchConfig,
    *,
    choose: Choice = majority,
    marker: Verifier | None = None,
    seeds: Sequence[int] | None = None,
    directory: Path | str | None = None,
    on_completions: OnCompletions | None = None,
    on_trees: OnTrees | None = None,
) -> Evaluation:
    """Search problems without their gold answers and metadata, choose an answer from each tree, and
    mark it.

    Every rollout is marked too, so one search with ``BestOfN()`` gives pass@k, the vote of k and the
    best of k for each k up to its number of rollouts (:meth:`Evaluation.pass_at` and its neighbours).
    :func:`~rftt.evaluation.compare.compare` evaluates several strategies side by side.

    Args:
        problems: with distinct ids; all with a gold answer, unless there is a marker.
        searcher, policy, config, on_completions: as in :func:`~rftt.search.engine.engine.run_search`.
        verifier: guides the search; its ``equivalent`` groups answers for votes, and marks an answer,
            as the model wrote it, against the gold one.
        choose: chooses an answer from a tree, given ``verifier.equivalent``.
        marker: marks in place of ``verifier``, where a gold answer alone does not decide: it judges the
            chosen solution with gold answer and metadata given back. A score of 1 or more is right.
        seeds: each problem is searched once with each; by default once, with the config's.
        directory: is where the searches are recorded and the finished evaluation is kept. One that was
            killed and is started again with the same arguments goes on where it was, and finds the
            same; a finished one is read, and nothing is searched or marked again.
        on_trees: hook to look at the trees of each search. A finished evaluation has none.

    Raises:
        ValueError: if there are no problems or seeds, two problems share an id, a problem lacks a gold
            answer, or ``directory`` is of another evaluation.
        BlockingIOError: if another process is searching in ``directory``.
    """
    problems, seeds = list(problems), [config.seed] if seeds is None else list(seeds)
    _check(problems, seeds, marker)
    settings = describe_settings(
        problems, config, strict=directory is not None,
        searcher=searcher, policy=policy, verifier=verifier, choose=choose, marker=marker, seeds=seeds,
    )  # fmt: skip
    path = None if directory is None else Path(directory) / "evaluation.json"
    if path is not None and path.exists():
        return _read(path, settings)
    hidden = [blind(problem) for problem in problems]
    results: list[Result] = []
    functions: Counter[str] = Counter()
    for seed in seeds:
        trees = run_search(
            hidden, searcher, policy, verifier, evolve(config, seed=seed),
            directory=None if path is None else path.with_name(f"seed_{seed}"),
            on_completions=on_completions,
        )  # fmt: skip
        results += mark_trees(problems, trees, verifier, choose, marker, seed)
        functions.update(step.function for tree in trees for step in tree.step if step is not None)
        if on_trees is not None:
            on_trees(trees)
    log_undecided(results, marker)
    evaluation = Evaluation(
        results=tuple(results),
        functions=dict(functions),
        independent=is_independent(searcher, config),
        settings=settings,
        versions=versions(),
    )
    if path is not None:
        with atomic_write(path) as partial:
            data = json.dumps(evaluation_to_json(evaluation), ensure_ascii=False)
            partial.write_text(data, encoding="utf-8")
    return evaluation


def is_independent(searcher: Searcher, config: SearchConfig) -> bool:
    """Return whether a tree's rollouts are independent samples, whose number nothing but the budget of
    rollouts decides. A subclass of ``BestOfN`` is taken to sample as it does."""
    return isinstance(searcher, BestOfN) and config.budget == Budget(rollouts=config.budget.rollouts)


def _check(problems: Sequence[Problem], seeds: Sequence[int], marker: Verifier | None) -> None:
    if not problems:
        raise ValueError("there are no problems to evaluate on: give at least one")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds are {list(seeds)}: give one or more that differ, or None")
    twice = [name for name, count in Counter(p.id for p in problems).items() if count > 1]
    if twice:
        raise ValueError(
            f"{len(twice)} ids are of several problems, {twice[0]!r} first: ids seed random streams and "
            "must differ"
        )
    without = [problem.id for problem in problems if problem.answer is None]
    if without and marker is None:
        raise ValueError(
            f"problem {without[0]!r} has no answer: it cannot be marked ({len(without)} of "
            f"{len(problems)} have none); leave them out, or give a marker that needs none"
        )


def _read(path: Path, settings: Mapping[str, Any]) -> Evaluation:
    """Read a finished evaluation, if it is of the same settings."""
    try:
        evaluation = evaluation_from_json(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not an evaluation: {error!r}; choose another directory") from error
    for part, value in settings.items():
        if found := difference(evaluation.settings.get(part), value, part):
            raise ValueError(
                f"{path} is of an evaluation with another {part}: {found}; choose another directory"
            )
    return evaluation
