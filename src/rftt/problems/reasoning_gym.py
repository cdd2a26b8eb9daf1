"""Tasks of reasoning-gym as problems (arXiv 2505.24760), an optional dependency."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

from rftt.problems.problem import Problem


def reasoning_gym_problems(dataset: str, count: int, *, seed: int = 0, **config: Any) -> list[Problem]:
    """Generate problems of one reasoning-gym data set.

    The metadata hold the whole ``entry`` as JSON, which its scorer needs, and the ``dataset``, ``seed``
    and ``config`` that it came from. The answer is ``None`` where the task has many right ones.

    Args:
        dataset: its name in reasoning-gym, such as ``chain_sum``.
        count: number of problems, 1 or more.
        seed: decides all of them; another seed may repeat some.
        config: further settings of the data set, such as ``min_terms=2``.

    Raises:
        ValueError: if reasoning-gym does not have the data set or a setting, or if an entry is scored
            otherwise once it is JSON (``arc_agi`` and ``rearc`` compare tuples).
        ImportError: without reasoning-gym.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ImportError("tasks come from reasoning-gym: pip install 'rftt[reasoning-gym]'") from error

    if count < 1:
        raise ValueError(f"count must be 1 or more, not {count}")
    if dataset not in DATASETS:
        near = difflib.get_close_matches(dataset, DATASETS, n=3)
        raise ValueError(f"reasoning-gym has no data set {dataset!r}; did you mean one of {near}?")
    try:
        tasks = reasoning_gym.create_dataset(dataset, size=count, seed=seed, **config)
    except (TypeError, AssertionError) as error:
        raise ValueError(f"reasoning-gym refused the settings of {dataset!r}: {error}") from error
    origin = {"dataset": dataset, "seed": seed, "config": config}
    problems = []
    for place in range(count):
        entry = _as_json(tasks, tasks[place], f"{dataset}, task {place}")
        metadata = {"entry": entry, **origin}
        problems.append(
            Problem(f"{dataset}/{seed}/{place}", entry["question"], entry["answer"], metadata)
        )
    return problems


def _as_json(tasks: Any, entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    try:
        stored: dict[str, Any] = json.loads(json.dumps(entry, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: its entry is not JSON: {error}") from error
    gold = entry["answer"]
    before, after = (tasks.score_answer(gold, read) for read in (entry, stored))
    if before != after:
        raise ValueError(
            f"{name}: its scorer gives the gold answer {before}, and {after} once the entry is stored "
            "as JSON, which has no tuples; it cannot be judged from a stored problem"
        )
    return stored
