"""What an evaluation depends on, as data that can be kept and compared."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import attrs

from rftt.fingerprint import fingerprint
from rftt.problems.problem import Problem
from rftt.search.budget import SearchConfig

_log = logging.getLogger(__name__)

_LIBRARIES: Final = ("rftt", "numpy", "torch", "transformers", "math-verify", "sympy", "vllm")


def versions() -> dict[str, str]:
    """Return the versions of the libraries that figures may depend on, of those that are installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe_settings(
    problems: Sequence[Problem], config: SearchConfig, *, strict: bool, **parts: object
) -> dict[str, Any]:
    """Return fingerprints of problems, config and other parts, as data out of JSON.

    Args:
        problems: each by a digest of its text, gold answer and metadata.
        config: what only says how fast trees grow is left out.
        strict: whether a part that has no fingerprint is an error. Otherwise what would have been the
            error stands in its place.
        **parts: other parts, by name.

    Raises:
        ValueError: naming the part that has no fingerprint, and what to do.
    """
    budget = attrs.evolve(config.budget, seconds=None)
    config = attrs.evolve(config, budget=budget, max_concurrent_trees=None, streaming=False)
    found: dict[str, Any] = {}
    for name, part in {**parts, "config": config}.items():
        try:
            found[name] = fingerprint(part)
        except ValueError as error:
            if strict:
                raise ValueError(f"{name}: {error}") from error
            _log.info(
                "%s has no fingerprint, so it is not in the evaluation's settings: %s", name, error
            )
            found[name] = f"no fingerprint: {error}"
    found["problems"] = {problem.id: digest(problem) for problem in problems}
    data: dict[str, Any] = json.loads(json.dumps(found))
    return data


def digest(problem: Problem) -> str:
    """Tell problems apart by question, gold answer and metadata."""
    text = json.dumps([problem.question, problem.answer, dict(problem.metadata)], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
