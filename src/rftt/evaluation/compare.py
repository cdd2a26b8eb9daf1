"""Evaluate several strategies on the same problems, and write a report."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from rftt.evaluation.evaluate import evaluate, is_independent
from rftt.evaluation.report import NO_GROUP, Report
from rftt.evaluation.results import Evaluation
from rftt.evaluation.storage import save_report
from rftt.fingerprint import difference, fingerprint
from rftt.interfaces import Policy, Verifier
from rftt.problems.problem import Problem
from rftt.search.answers.voting import Choice, majority
from rftt.search.budget import SearchConfig
from rftt.search.engine.loop import OnCompletions
from rftt.search.searcher import Searcher

_log = logging.getLogger(__name__)

_NAME: Final = re.compile(r"\w[\w .,+=-]*\Z")
"""What can be a folder's name everywhere, and is not a score's such as ``samples pass@4``."""


@frozen
class Arm:
    """One of the strategies that are compared.

    Attributes:
        searcher, policy, verifier, config, choose: as in :func:`~rftt.evaluation.evaluate.evaluate`.
        seeds: each problem is searched once with each; ``None`` is once, with the config's.
    """

    searcher: Searcher
    policy: Policy
    verifier: Verifier
    config: SearchConfig
    choose: Choice = majority
    seeds: tuple[int, ...] | None = None


def compare(
    problems: Sequence[Problem],
    arms: Mapping[str, Arm],
    *,
    marker: Verifier | None = None,
    by: Sequence[str] = (),
    seed: int = 0,
    directory: Path | str | None = None,
    on_completions: OnCompletions | None = None,
) -> Report:
    """Evaluate arms one after the other on the same problems.

    Args:
        problems: as in :func:`~rftt.evaluation.evaluate.evaluate`.
        arms: by name. The others are compared with the first.
        marker: marks the answers of all arms. Without one each arm's own verifier does, and all must be
            the same.
        by: keys of the problems' metadata to report accuracies by, such as ``("level", "subject")``.
        seed: of bootstraps and of tests by random draws.
        directory: is where each arm has a folder for its evaluation, and the report is written, as
            JSON, Markdown and a plot. A comparison that was killed and is started again goes on where
            it was; finished arms are not searched again, and arms may be added.
        on_completions: as in :func:`~rftt.search.engine.engine.run_search`.

    Raises:
        ValueError: if there are no arms, a name cannot be a folder's, the arms' verifiers differ and
            there is no marker, no problem has a key of ``by``, or as in
            :func:`~rftt.evaluation.evaluate.evaluate`.
    """
    problems = list(problems)
    _check_arms(arms, marker)
    groups = {key: _group(problems, key) for key in by}
    found: dict[str, Evaluation] = {}
    for name, arm in arms.items():
        _warn_of_temperature(name, arm)
        found[name] = evaluate(
            problems, arm.searcher, arm.policy, arm.verifier, arm.config,
            choose=arm.choose, marker=marker, seeds=arm.seeds,
            directory=None if directory is None else Path(directory) / name,
            on_completions=on_completions,
        )  # fmt: skip
        _log.info("%s: accuracy %.1f%%", name, 100 * found[name].accuracy)
    report = Report(found, groups, seed)
    if directory is not None:
        save_report(directory, report)
    return report


def _check_arms(arms: Mapping[str, Arm], marker: Verifier | None) -> None:
    if not arms:
        raise ValueError("there are no arms to compare: give at least one")
    for name in arms:
        if not _NAME.match(name):
            raise ValueError(
                f"arm {name!r}: the name is a folder's too; use letters, digits, spaces and .,+=-"
            )
    (first, one), *others = arms.items()
    for name, arm in others:
        if marker is None and (found := _differ(one.verifier, arm.verifier)):
            raise ValueError(
                f"arms {first!r} and {name!r} have different verifiers ({found}), so they would not be "
                "marked alike: give compare(..., marker=...), such as MathVerifier()"
            )


def _differ(a: Verifier, b: Verifier) -> str | None:
    return None if a is b else difference(fingerprint(a), fingerprint(b), "verifier")


def _group(problems: Sequence[Problem], key: str) -> tuple[str, ...]:
    if problems and not any(key in problem.metadata for problem in problems):
        keys = sorted({other for problem in problems for other in problem.metadata})
        raise ValueError(
            f"by: no problem has {key!r} in its metadata; there are: {', '.join(keys) or 'none'}"
        )
    without = sum(key not in problem.metadata for problem in problems)
    if without:
        _log.warning("%d of %d problems have no %s; they are %s", without, len(problems), key, NO_GROUP)
    return tuple(str(problem.metadata.get(key, NO_GROUP)) for problem in problems)


def _warn_of_temperature(name: str, arm: Arm) -> None:
    """Warn if a policy that says what it samples with contradicts what the arm is for."""
    # Policies over a sampler have sampling_params; of others nothing is known.
    params: Any = getattr(arm.policy, "sampling_params", None)
    temperature = getattr(params, "temperature", None)
    if temperature is None:
        return
    rollouts = arm.config.budget.rollouts or 1
    if "greedy" in name.lower() and temperature != 0:
        _log.warning(
            "arm %r: its policy samples at temperature %g; a greedy one needs 0", name, temperature
        )
    elif temperature == 0 and rollouts > 1 and is_independent(arm.searcher, arm.config):
        _log.warning("arm %r: at temperature 0 all %d samples of a problem are the same", name, rollouts)
