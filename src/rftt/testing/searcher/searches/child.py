"""Searches that are the same in every process: what another process runs, and what it is compared with.

The other process is given this module's name, so nothing here may need hypothesis, which takes long to
import.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Sequence
from random import Random
from typing import Any, Final

from rftt.interfaces import Verdict
from rftt.search.budget import Budget, SearchConfig
from rftt.search.engine.engine import run_search
from rftt.search.searcher import Searcher
from rftt.search.tree.storage import tree_to_json
from rftt.testing.finite.problem import FiniteProblem, Path, leaves
from rftt.testing.finite.tabular import Reply, TabularPolicy
from rftt.tokens.grammar import Function, Grammar

_NAMES: Final = ("guess", "plan", "recall", "split", "draw", "test", "solve", "sum")
_GRAMMAR: Final = Grammar(
    [Function(name, f"do {name}") for name in (*_NAMES, "end")],
    start=_NAMES,
    # Each function has followers of its own, so that what may follow one node may not follow another.
    followers={
        name: (*(_NAMES[(place + more) % len(_NAMES)] for more in (0, 1, 2, 4, 5)), "end")
        for place, name in enumerate(_NAMES)
    },
)
_ROLLOUTS: Final = 24
COUNT: Final = 3
"""The number of problems."""


def known_problem(number: int, rewards: tuple[float, float]) -> FiniteProblem:
    """Return one of some finite problems in which many functions, texts and answers are equally good,
    so that an order in which they are looked at shows."""
    rng = Random(number)
    table: dict[Path, list[Reply]] = {}
    _fill(rng, table, (), None)
    policy = TabularPolicy(_GRAMMAR, table)
    low, high = rewards
    verdicts = {
        leaf: Verdict(low + (high - low) * rng.randrange(3) / 2, f"answer {rng.randrange(4)}")
        for leaf in leaves(policy)
    }
    return FiniteProblem(policy, verdicts)


def _fill(rng: Random, table: dict[Path, list[Reply]], path: Path, last: str | None) -> None:
    legal = [name for name in _GRAMMAR.legal(last) if name != "end"]
    names = ["end"] if len(path) == 3 else rng.sample(legal, 4) + ["end"] * (len(path) > 1)
    table[path] = [Reply(name, f"{name} {rng.randrange(100)}", 1 / len(names)) for name in names]
    for reply in table[path]:
        if reply.function != "end":
            _fill(rng, table, (*path, reply.text), reply.function)


def search_known(searcher: Searcher, number: int, rewards: tuple[float, float]) -> dict[str, Any]:
    """Search a known problem, and return its tree as JSON."""
    finite = known_problem(number, rewards)
    config = SearchConfig(Budget(_ROLLOUTS), seed=number, max_depth=5)
    (tree,) = run_search(finite.problems(), searcher, finite.policy, finite.verifier, config)
    held: dict[str, Any] = json.loads(json.dumps(tree_to_json(tree)))
    return held


def _search_all(
    searcher: Searcher, numbers: Sequence[int], rewards: tuple[float, float]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number in numbers:
        try:
            found[str(number)] = search_known(searcher, number, rewards)
        except Exception as error:
            found[str(number)] = {"error": repr(error)}
    return found


def main() -> None:
    """Read a strategy and what to search from standard input, and write the trees to standard output."""
    # What a strategy prints must not get among the trees.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        # A strategy of the caller's, in a process of the caller's: as multiprocessing does it.
        searcher, numbers, rewards = pickle.load(sys.stdin.buffer)
        json.dump(_search_all(searcher, numbers, rewards), out)
