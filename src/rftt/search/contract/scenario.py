"""Searches in words: trees with their node numbers, wishes and replies, and where two trees differ."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from typing import Any

import attrs

from rftt.search.searcher import Expansion, Growth
from rftt.search.storage import tree_from_json, tree_to_json
from rftt.search.tree import SearchTree

_LINES = 12
_NODES = 40
_CHAINS = 6
_CHARACTERS = 40


def reloaded(tree: SearchTree) -> SearchTree:
    """The tree as it comes back from a file. Raises ``TypeError`` if it cannot be written to one."""
    return tree_from_json(json.loads(json.dumps(tree_to_json(tree))))


def tree_text(tree: SearchTree) -> str:
    """One line a node: number, function and text, figures, and why it has no more children, if so. Of
    a large tree only the nodes next to the root."""
    shown = sorted(range(len(tree)), key=lambda node: (tree.depth[node], node))[:_NODES]
    lines = [f"tree {tree.problem.id!r}, at most {tree.max_depth} steps deep:"]
    lines += [_node_text(tree, node) for node in _depth_first(tree, set(shown))]
    if len(shown) < len(tree):
        lines.append(f"  ... {len(tree) - len(shown)} more nodes ...")
    if tree.memo:
        lines.append(f"  memo {tree.memo}")
    return "\n".join(lines)


def _depth_first(tree: SearchTree, among: set[int]) -> list[int]:
    nodes, waiting = [], [0]
    while waiting:
        nodes.append(waiting.pop())
        waiting += [child for child in reversed(tree.children(nodes[-1])) if child in among]
    return nodes


def _node_text(tree: SearchTree, node: int) -> str:
    segment, verdict = tree.segment[node], tree.verdict[node]
    parts = [f"{node}" + (f" <{segment.function}> {_short(segment.text)}" if segment else " question")]
    parts.append(f"visits {tree.visits[node]}")
    if tree.ended[node]:
        parts.append(f"ended {tree.ended[node]}")
    if tree.judged[node]:
        parts.append(f"total {tree.total[node]:g} of {tree.judged[node]}")
    if verdict is not None:
        parts.append("abstained" if verdict.score is None else f"score {verdict.score:g}")
        parts += [] if verdict.answer is None else [f"answer {verdict.answer!r}"]
    if tree.is_terminal(node):
        parts.append("cut" if segment and segment.is_cut else "final")
    if tree.closed[node]:
        parts.append("closed")
    return "  " * (tree.depth[node] + 1) + ", ".join(parts)


def _short(text: str) -> str:
    return repr(text if len(text) <= _CHARACTERS else text[:_CHARACTERS] + "...")


def wish_text(wish: Expansion) -> str:
    """An expansion in words."""
    function = "any function" if wish.function is None else f"<{wish.function}>"
    prefix = f", after {list(wish.prefix)}" if wish.prefix else ""
    return f"{wish.count} x node {wish.node}, {function}{prefix}, until {wish.until}"


def asked_text(wishes: Sequence[Expansion]) -> str:
    """A round's expansions in words."""
    return "; ".join(map(wish_text, wishes)) or "nothing"


def told_text(grown: Sequence[Growth]) -> str:
    """A round's growth in words; the steps themselves are on the tree."""
    return "; ".join(_growth_text(growth) for growth in grown)


def _growth_text(growth: Growth) -> str:
    chains = [
        " > ".join(map(str, chain)) + ("" if score is None else f" scored {score:g}")
        for chain, score in zip(growth.chains, growth.scores, strict=True)
    ]
    if len(chains) > _CHAINS:
        chains = [*chains[:_CHAINS], f"... {len(chains) - _CHAINS} more"]
    missing = growth.expansion.count - len(growth.chains)
    fewer = f" ({missing} fewer than asked)" if missing else ""
    return f"node {growth.expansion.node} got {', '.join(chains) or 'nothing'}{fewer}"


def story_text(lines: Sequence[str]) -> str:
    """The lines, the middle left out where there are many."""
    if len(lines) > 2 * _LINES:
        lines = [*lines[:_LINES], f"... {len(lines) - 2 * _LINES} more lines ...", *lines[-_LINES:]]
    return "\n".join(lines)


def difference(one: SearchTree, other: SearchTree) -> str | None:
    """The first column, and in it the first node, in which two trees of one problem differ; notes that
    can be taken again do not count."""
    for column in attrs.fields(SearchTree):
        a, b = (_comparable(tree, column.name) for tree in (one, other))
        if column.eq and a != b:
            if not isinstance(a, list | array) or not isinstance(b, list | array):
                return f"{column.name} is {a} in the one, {b} in the other"
            pairs = enumerate(zip(a, b, strict=False))
            node = next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))
            x, y = (c[node] if node < len(c) else "nothing" for c in (a, b))
            return f"{column.name} of node {node} is {x} in the one, {y} in the other"
    return None


def _comparable(tree: SearchTree, name: str) -> Any:
    if name == "grammar":
        # Grammars are equal only to themselves, and nothing here gives a tree another one.
        return None
    value = getattr(tree, name)
    try:
        return json.dumps(value, sort_keys=True) if name == "memo" else value
    except TypeError:
        return value
