"""Trees as JSON lines: one tree a line, nothing pickled, nothing lost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from rftt.interfaces import Segment, Verdict
from rftt.problems.problem import Problem
from rftt.search.tree import SearchTree
from rftt.tokens.grammar import Function, Grammar


def tree_to_json(tree: SearchTree) -> dict[str, Any]:
    """The tree as JSON-able data, with its grammar, so that it can be read without other files."""
    grammar = tree.grammar
    data = {
        f.name: getattr(tree, f.name)
        for f in attrs.fields(SearchTree)
        if f.name not in {"problem", "grammar", "segment", "verdict", "children", "depth"}
    }
    return data | {
        "total": tree.total.tolist(),
        "problem": attrs.asdict(tree.problem),
        "grammar": {
            "functions": [attrs.asdict(function) for function in grammar.functions.values()],
            "start": grammar.start,
            "followers": grammar.followers,
        },
        "segment": [s and attrs.asdict(s) for s in tree.segment],
        "verdict": [v and attrs.asdict(v) for v in tree.verdict],
    }


def tree_from_json(data: dict[str, Any]) -> SearchTree:
    """The inverse of :func:`tree_to_json`.

    Raises ``KeyError``, ``TypeError`` or ``ValueError`` if the data is not a tree.
    """
    data = dict(data)
    grammar = data.pop("grammar")
    parents: list[int] = data["parent"]
    depth = [0]
    children: list[list[int]] = [[] for _ in parents]
    for node, parent in enumerate(parents[1:], start=1):
        if not 0 <= parent < node:
            raise ValueError(f"node {node} has parent {parent}; a parent's number is smaller")
        depth.append(depth[parent] + 1)
        children[parent].append(node)
    segments = [s and Segment(**s) for s in data.pop("segment")]
    verdicts = [v and verdict_from_json(v) for v in data.pop("verdict")]
    tree = SearchTree(
        problem=Problem(**data.pop("problem")),
        grammar=Grammar(
            functions=[Function(**function) for function in grammar["functions"]],
            start=grammar["start"],
            followers=grammar["followers"],
        ),
        segment=segments,
        verdict=verdicts,
        depth=depth,
        children=children,
        **data,
    )
    columns = ("segment", "verdict", "visits", "ended", "judged", "total", "prior", "closed")
    for column in columns:
        if len(getattr(tree, column)) != len(tree):
            raise ValueError(f"{column} has {len(getattr(tree, column))} entries for {len(tree)} nodes")
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
