"""Trees as JSON lines: one tree a line, nothing pickled, nothing lost."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from rftt.files import atomic_write
from rftt.interfaces import Step, Verdict
from rftt.problems.problem import Problem
from rftt.search.tree.tree import SearchTree
from rftt.tokens.grammar import Function, Grammar

_FIGURES: Final = ("visits", "ended", "value_count", "value_sum", "exhausted")
_OBJECTS: Final = ("step", "verdict", "prior")
_SCALARS: Final = ("start", "rounds", "rollouts", "tokens", "memo")


def tree_to_json(tree: SearchTree) -> dict[str, Any]:
    """Return the tree as JSON-able data, with its grammar, so that it can be read alone."""
    grammar = tree.grammar
    return {
        "problem": attrs.asdict(tree.problem),
        "grammar": {
            "functions": [attrs.asdict(function) for function in grammar.functions.values()],
            "start": grammar.start,
            "followers": grammar.followers,
        },
        "max_depth": tree.max_depth,
        "parent": tree.parent,
        "step": [s and step_to_json(s) for s in tree.step],
        "verdict": [v and attrs.asdict(v) for v in tree.verdict],
        "prior": tree.prior,
        **{name: getattr(tree, name) for name in (*_FIGURES, *_SCALARS)},
    }


def tree_from_json(data: Mapping[str, Any]) -> SearchTree:
    """Return the tree that :func:`tree_to_json` made the data of.

    Raises:
        KeyError, TypeError, ValueError: if the data is not a tree.
    """
    grammar, parents = data["grammar"], data["parent"]
    tree = SearchTree(
        problem=Problem(**data["problem"]),
        grammar=Grammar(
            functions=[Function(**function) for function in grammar["functions"]],
            start=grammar["start"],
            followers=grammar["followers"],
        ),
        max_depth=data["max_depth"],
    )
    if parents[:1] != [-1]:
        raise ValueError(f"node 0 has parent {parents[:1]}; the root's is -1")
    for name in (*_OBJECTS, *_FIGURES):
        if len(data[name]) != len(parents):
            raise ValueError(f"{name} has {len(data[name])} entries for {len(parents)} nodes")
    for node, (parent, step) in enumerate(zip(parents[1:], data["step"][1:], strict=True), start=1):
        if not 0 <= parent < node:
            raise ValueError(f"node {node} has parent {parent}; a parent's number is smaller")
        tree.attach(parent, step_from_json(step))
    for name in _FIGURES:
        setattr(tree, name, list(data[name]))
    tree.verdict = [v and verdict_from_json(v) for v in data["verdict"]]
    tree.prior = list(data["prior"])
    for name in _SCALARS:
        setattr(tree, name, data[name])
    return tree


def step_to_json(step: Step) -> dict[str, Any]:
    """Return a step as JSON-able data; a log-probability that is NaN, which no JSON can hold, is
    ``None``."""
    log_probs = [None if math.isnan(log_prob) else log_prob for log_prob in step.log_probs]
    return {**attrs.asdict(step), "log_probs": log_probs}


def step_from_json(data: Mapping[str, Any]) -> Step:
    """Return the step that :func:`step_to_json` made the data of."""
    log_probs = [math.nan if log_prob is None else log_prob for log_prob in data["log_probs"]]
    return Step(**{**data, "log_probs": log_probs})


def verdict_from_json(data: Mapping[str, Any]) -> Verdict:
    """Return a verdict out of ``attrs.asdict`` and JSON."""
    scores: Sequence[float] | None = data["step_scores"]
    return Verdict(**{**data, "step_scores": scores and tuple(scores)})


def save_trees(path: Path | str, trees: Iterable[SearchTree]) -> None:
    """Write trees to a file, one a line. The file is there when all of it is."""
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as file:
        for tree in trees:
            file.write(json.dumps(tree_to_json(tree), ensure_ascii=False) + "\n")


def load_trees(path: Path | str) -> list[SearchTree]:
    """Read what :func:`save_trees` wrote.

    Raises:
        ValueError: naming the file and line that is not a tree.
    """
    trees = []
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                trees.append(tree_from_json(json.loads(line)))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: not a search tree: {error!r}") from error
    return trees
