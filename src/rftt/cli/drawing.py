"""A search tree for the terminal, in the colours that it has on its page."""

from __future__ import annotations

import colorsys
from typing import Final

from rich.text import Text
from rich.tree import Tree

from rftt.search.tree.tree import SearchTree
from rftt.search.view.colors import colors

_WIDTH: Final = 72


def drawing(tree: SearchTree, *, max_nodes: int) -> Tree:
    """Return a tree as rich draws it: each step's function, text, visits and, where it ends, its answer.

    Args:
        tree: the tree.
        max_nodes: most nodes, those most visited; how many were left out is said at the root.
    """
    hues = colors(tree.grammar)
    order = sorted(range(len(tree)), key=lambda node: (-tree.visits[node], node))
    # A parent has no fewer visits than its children and a smaller number, so it is shown with them.
    shown = set(order[: max(1, max_nodes)])
    left_out = len(tree) - len(shown)
    head = _text(tree, 0) + (f" ({left_out} steps more)" if left_out else "")
    branches = {0: Tree(Text(head, style="bold"))}
    for node in range(1, len(tree)):
        if node in shown and tree.parent[node] in branches:
            branches[node] = branches[tree.parent[node]].add(_label(tree, node, hues))
    return branches[0]


def _label(tree: SearchTree, node: int, hues: dict[str, int]) -> Text:
    step, verdict = tree.step[node], tree.verdict[node]
    assert step is not None
    red, green, blue = colorsys.hls_to_rgb(hues[step.function] / 360, 0.55, 0.6)
    label = Text(no_wrap=True, overflow="ellipsis")
    color = "".join(f"{int(part * 255):02x}" for part in (red, green, blue))
    label.append(f"{step.function} ", style=f"#{color}")
    label.append(_text(tree, node))
    label.append(f"  {tree.visits[node]}", style="dim")
    if verdict is not None and verdict.answer is not None and tree.is_finished(node):
        label.append(f"  = {verdict.answer}", style="bold")
    return label


def _text(tree: SearchTree, node: int) -> str:
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(tree.text(node).split()))
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"
