"""Trees as JSON lines: one tree a line, nothing pickled, nothing lost."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from rftt.interfaces import Segment, Verdict
from rftt.problems.problem import Problem
from rftt.search.tree import SearchTree
from rftt.tokens.grammar import Function, Grammar

_NUMBERS: Final = ("visits", "ended", "judged", "total", "closed")
_OBJECTS: Final = ("segment", "verdict", "prior")
_SCALARS: Final = ("start", "rounds", "samples", "tokens", "memo")


def tree_to_json(tree: SearchTree) -> dict[str, Any]:
    """The tree as JSON-able data, with its grammar, so that it can be read without other files."""
    grammar = tree.grammar
    return {
        "problem": attrs.asdict(tree.problem),
        "grammar": {
            "functions": [attrs.asdict(function) for function in grammar.functions.values()],
            "start": grammar.start,
            "followers": grammar.followers,
        },
        "max_depth": tree.max_depth,
        "parent": tree.parent.tolist(),
        "segment": [s and attrs.asdict(s) for s in tree.segment],
        "verdict": [v and attrs.asdict(v) for v in tree.verdict],
        "prior": tree.prior,
        **{name: getattr(tree, name).tolist() for name in _NUMBERS},
        **{name: getattr(tree, name) for name in _SCALARS},
    }


def tree_from_json(data: Mapping[str, Any]) -> SearchTree:
    """The inverse of :func:`tree_to_json`.

    Raises ``KeyError``, ``TypeError`` or ``ValueError`` if the data is not a tree.
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
    for name in (*_OBJECTS, *_NUMBERS):
        if len(data[name]) != len(parents):
            raise ValueError(f"{name} has {len(data[name])} entries for {len(parents)} nodes")
    for node, (parent, segment) in enumerate(
        zip(parents[1:], data["segment"][1:], strict=True), start=1
    ):
        if not 0 <= parent < node:
            raise ValueError(f"node {node} has parent {parent}; a parent's number is smaller")
        tree.attach(parent, Segment(**segment))
    for name in _NUMBERS:
        getattr(tree, name)[:] = array(getattr(tree, name).typecode, data[name])
    tree.verdict = [v and verdict_from_json(v) for v in data["verdict"]]
    tree.prior = list(data["prior"])
    for name in _SCALARS:
        setattr(tree, name, data[name])
    return tree


def verdict_from_json(data: Mapping[str, Any]) -> Verdict:
    """A verdict out of ``attrs.asdict`` and JSON."""
    scores: Sequence[float] | None = data["step_scores"]
    return Verdict(**{**data, "step_scores": scores and tuple(scores)})


@contextmanager
def whole(path: Path | str) -> Iterator[Path]:
    """Where to write what shall stand at ``path``: it is renamed at the end of the ``with`` block, so
    that a kill leaves no half of a file or folder."""
    half = Path(f"{path}.half")
    yield half
    half.rename(path)


def save_trees(path: Path | str, trees: Iterable[SearchTree]) -> None:
    """Write trees to a file, one a line. The file is there when all of it is."""
    with whole(path) as half, half.open("w", encoding="utf-8") as file:
        for tree in trees:
            file.write(json.dumps(tree_to_json(tree), ensure_ascii=False) + "\n")


def load_trees(path: Path | str) -> list[SearchTree]:
    """Read what :func:`save_trees` wrote.

    Raises ``ValueError`` naming the file and line that is not a tree.
    """
    trees = []
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                trees.append(tree_from_json(json.loads(line)))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: not a search tree: {error!r}") from error
    return trees
