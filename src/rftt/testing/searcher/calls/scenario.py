"""A search in words: what was asked and told, round by round, and the trees."""

from __future__ import annotations

from collections.abc import Sequence

from rftt.search.searcher import Expansion, ExpansionResult
from rftt.search.tree.tree import SearchTree
from rftt.search.view.text import render

_LINES = 12
_NODES = 40
_COMPLETIONS = 6


def tree_text(tree: SearchTree) -> str:
    """Return a heading, the nodes next to the root, and the memo if there is one."""
    lines = [f"tree {tree.problem.id!r}, at most {tree.max_depth} steps deep:"]
    lines.append(render(tree, max_nodes=_NODES))
    if tree.memo:
        lines.append(f"memo {tree.memo}")
    return "\n".join(lines)


def asked_text(expansions: Sequence[Expansion]) -> str:
    """Return a round's expansions in words."""
    return "; ".join(map(_expansion_text, expansions)) or "nothing"


def _expansion_text(expansion: Expansion) -> str:
    function = "any function" if expansion.function is None else f"<{expansion.function}>"
    prefix = f", after {list(expansion.prefix)}" if expansion.prefix else ""
    return f"{expansion.count} x node {expansion.node}, {function}{prefix}, until {expansion.until}"


def told_text(results: Sequence[ExpansionResult]) -> str:
    """Return a round's results in words; the steps themselves are on the tree."""
    return "; ".join(map(_result_text, results))


def _result_text(result: ExpansionResult) -> str:
    completions = [
        " > ".join(map(str, nodes)) + ("" if score is None else f" scored {score:g}")
        for nodes, score in zip(result.completions, result.scores, strict=True)
    ]
    if len(completions) > _COMPLETIONS:
        completions = [*completions[:_COMPLETIONS], f"... {len(completions) - _COMPLETIONS} more"]
    missing = result.expansion.count - len(result.completions)
    fewer = f" ({missing} fewer than asked)" if missing else ""
    return f"node {result.expansion.node} got {', '.join(completions) or 'nothing'}{fewer}"


def story_text(lines: Sequence[str]) -> str:
    """Return the lines, without the middle where there are many."""
    if len(lines) > 2 * _LINES:
        lines = [*lines[:_LINES], f"... {len(lines) - 2 * _LINES} more lines ...", *lines[-_LINES:]]
    return "\n".join(lines)
