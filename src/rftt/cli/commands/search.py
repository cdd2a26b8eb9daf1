"""``rftt search``: search problems and keep the trees."""

from __future__ import annotations

from pathlib import Path

import rftt.search.strategies  # noqa: F401  (strategies can be given by their names)
from rftt.cli.command import Command
from rftt.cli.parts import LOAD_POLICY, SEARCH, read_problems
from rftt.interfaces import Policy, Verifier
from rftt.search.budget import SearchConfig
from rftt.search.engine.engine import run_search
from rftt.search.engine.progress import progress
from rftt.search.searcher import Searcher
from rftt.search.tree.storage import save_trees


def search_problems(
    problems: str | list[str],
    output: Path,
    policy: Policy,
    searcher: Searcher,
    verifier: Verifier,
    search: SearchConfig = SEARCH,
    max_problems: int | None = None,
) -> None:
    """Search problems and keep their trees in a folder. A search that was stopped goes on from its last
    finished round.

    Args:
        problems: FILE, SET=FILE or arithmetic:SPLIT:COUNT, or a list of those.
        output: folder for the trees.
        policy: what samples steps: by default a model, with the arguments of load_policy.
        searcher: the strategy.
        verifier: judges where completions end.
        search: what each tree may spend, and other settings of the search.
        max_problems: so many problems at most.
    """
    found = read_problems(problems, max_problems)
    with progress(len(found) * (search.budget.rollouts or 0)) as on_completions:
        trees = run_search(
            found, searcher, policy, verifier, search,
            directory=output / "search", on_completions=on_completions,
        )  # fmt: skip
    save_trees(output / "trees.jsonl", trees)
    scores, rollouts = sum(tree.value_sum[0] for tree in trees), sum(tree.visits[0] for tree in trees)
    print(f"{len(trees)} trees; scores add up to {scores:g} in {rollouts} rollouts")
    print(f"look at one: rftt show {output}")


COMMAND = Command(
    search_problems,
    parts={
        "policy": LOAD_POLICY,
        "searcher": {"class_path": "rftt.MCTS"},
        "verifier": {"class_path": "rftt.MathVerifier"},
    },
)
