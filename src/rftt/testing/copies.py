"""Copies of trees, and where two trees differ."""

from __future__ import annotations

import copy
import json
from typing import Any

import attrs

from rftt.search.tree.storage import tree_from_json, tree_to_json
from rftt.search.tree.tree import SearchTree

_COLUMNS = [column.name for column in attrs.fields(SearchTree)]


def copied(tree: SearchTree) -> SearchTree:
    """Return an equal tree that shares nothing that a strategy could write to."""
    columns = {name: _copied(getattr(tree, name)) for name in _COLUMNS}
    return SearchTree(**(columns | {"memo": copy.deepcopy(tree.memo)}))


def _copied(value: Any) -> Any:
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return dict(value) if isinstance(value, dict) else value


def reloaded(tree: SearchTree) -> SearchTree:
    """Return the tree as it comes back from a file, with its budget, which is not saved.

    Raises:
        TypeError, ValueError: if it cannot be written to one.
    """
    loaded = tree_from_json(json.loads(json.dumps(tree_to_json(tree))))
    loaded.budget = tree.budget
    return loaded


def difference(one: SearchTree, other: SearchTree) -> str | None:
    """Return the first column, and in it the first node, in which two trees of one problem differ."""
    for name in _COLUMNS:
        a, b = (_comparable(tree, name) for tree in (one, other))
        if a == b:
            continue
        if not isinstance(a, list) or not isinstance(b, list):
            return f"{name} is {a} in the one, {b} in the other"
        pairs = enumerate(zip(a, b, strict=False))
        node = next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))
        x, y = (column[node] if node < len(column) else "nothing" for column in (a, b))
        return f"{name} of node {node} is {x} in the one, {y} in the other"
    return None


def _comparable(tree: SearchTree, name: str) -> Any:
    if name in ("grammar", "budget"):
        # Grammars are equal only to themselves; a budget is the engine's, not the tree's.
        return None
    value = getattr(tree, name)
    try:
        return json.dumps(value, sort_keys=True) if name == "memo" else value
    except TypeError:
        return value
