"""``rftt evaluate``: measure a model on problems with gold answers."""

from __future__ import annotations

from pathlib import Path

import rftt.search.strategies  # noqa: F401  (strategies can be given by their names)
from rftt.cli.command import Command
from rftt.cli.parts import LOAD_POLICY, SEARCH, read_problems
from rftt.evaluation.evaluate import evaluate
from rftt.interfaces import Policy, Verifier
from rftt.search.budget import SearchConfig
from rftt.search.engine.progress import progress
from rftt.search.searcher import Searcher


def evaluate_problems(
    problems: str | list[str],
    policy: Policy,
    searcher: Searcher,
    verifier: Verifier,
    search: SearchConfig = SEARCH,
    output: Path | None = None,
    max_problems: int | None = None,
) -> None:
    """Search problems without their gold answers, answer each by vote, and mark the answers.

    Args:
        problems: FILE, SET=FILE or arithmetic:SPLIT:COUNT, or a list of those.
        policy: what samples steps: by default a model, with the arguments of load_policy.
        searcher: the strategy.
        verifier: guides the search and marks the answers.
        search: what each tree may spend, and other settings of the search.
        output: folder for the searches and the result; one that was stopped goes on from there. Without
            it nothing is kept.
        max_problems: so many problems at most.
    """
    found = read_problems(problems, max_problems)
    with progress(len(found) * (search.budget.rollouts or 0)) as on_completions:
        evaluation = evaluate(
            found, searcher, policy, verifier, search, directory=output, on_completions=on_completions
        )
    low, high = evaluation.interval
    print(f"right {evaluation.accuracy:.1%} of {len(found)}, 95% interval {low:.1%} to {high:.1%}")
    print(f"some rollout is right {evaluation.coverage().value:.1%}")
    print(f"tokens a problem {evaluation.tokens_per_problem:.0f}")


COMMAND = Command(
    evaluate_problems,
    parts={
        "policy": LOAD_POLICY,
        "searcher": {"class_path": "rftt.BestOfN"},
        "verifier": {"class_path": "rftt.MathVerifier"},
    },
)
