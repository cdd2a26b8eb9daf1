"""Parts that options name: policies and problems."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

from rftt.interfaces import Policy
from rftt.nano.checkpoint import FOLDER
from rftt.policies.loading import load_policy
from rftt.problems.arithmetic import Split, arithmetic_problems
from rftt.problems.fields import Fields
from rftt.problems.loaders import load_problems
from rftt.problems.problem import Problem
from rftt.problems.sets import SETS
from rftt.search.budget import Budget, SearchConfig

LOAD_POLICY: Final = {"class_path": "rftt.cli.parts.load"}
"""The policy where none is named by its class."""

SEARCH: Final = SearchConfig(Budget(rollouts=16))
"""The settings of a search where none are given."""

NANO: Final = "nano"


def load(model: str | None, *, engine: Mapping[str, Any] | None = None, **settings: Any) -> Policy:
    """Load a policy, as :func:`rftt.load_policy` does.

    Args:
        model: ``nano``, a folder in transformers' format, an adapter, or a name that the backend knows.
        engine: settings of vLLM's engine, with that backend: max_model_len, gpu_memory_utilization ...
        **settings: of :func:`rftt.load_policy`.

    Raises:
        ValueError: if there is no model.
    """
    if model is None:
        raise ValueError("no model: give --model nano, or a folder written by save_pretrained")
    return load_policy(model_path(model), **settings, **(engine or {}))


def model_path(model: str) -> str:
    """Return where a model is: ``nano`` is the embedded one, unless a folder has that name."""
    return str(FOLDER) if model == NANO and not Path(model).exists() else model


def read_problems(entries: str | list[str], most: int | None = None) -> list[Problem]:
    """Read the problems of one entry or several.

    Args:
        entries: each ``FILE``, ``SET=FILE`` with the name of a well-known set whose fields it has, or
            ``arithmetic:SPLIT:COUNT`` for made ones.
        most: so many of them at most, the first ones.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for an unknown set or split, or a file that holds something else.
    """
    entries = [entries] if isinstance(entries, str) else entries
    return [problem for entry in entries for problem in _read(entry)][:most]


def _read(entry: str) -> list[Problem]:
    if entry.startswith("arithmetic:"):
        return _arithmetic(entry)
    name, _, file = entry.rpartition("=")
    if name and name not in SETS:
        raise ValueError(f"problems {entry!r}: {name!r} is not one of the sets {', '.join(SETS)}")
    return load_problems(file, SETS[name] if name else Fields())


def _arithmetic(entry: str) -> list[Problem]:
    match entry.split(":"):
        case [_, split, count] if split in get_args(Split) and count.isdigit():
            return arithmetic_problems(int(count), split)  # type: ignore[arg-type]
    raise ValueError(
        f"problems {entry!r}: give arithmetic:SPLIT:COUNT, with a split of {', '.join(get_args(Split))}"
    )
