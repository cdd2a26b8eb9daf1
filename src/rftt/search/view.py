"""A tree to look at: as indented text, or as a drawing for Graphviz. For a page to click through, see
:mod:`rftt.search.page`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Final

from rftt.search.tree import SearchTree
from rftt.tokens.grammar import Grammar

_HUES: Final = {
    "clarify": 182,
    "analysis": 262,
    "subquestion": 300,
    "next_step": 214,
    "direct_answer": 40,
    "verify": 96,
    "refine": 342,
    "output": 152,
}
_WHEEL: Final = (*_HUES.values(), 12, 26, 60, 124, 198, 238, 281, 320)
"""Hues that can be told apart, in degrees: fewer where the eye sees less difference, as in green."""


def render(tree: SearchTree, *, width: int = 100) -> str:
    """The tree as indented text, one line a node: visits, mean value, function and text of each step.

    Lines are cut to ``width`` characters.
    """
    lines = []
    for node in _from_the_top(tree):
        segment, value = tree.segment[node], tree.value(node)
        name = f"<{segment.function}> " if segment else ""
        figures = f"[{tree.visits[node]}" + (f", {value:.2f}]" if value is not None else "]")
        text = " ".join(tree.text(node).split())
        lines.append(f"{'  ' * tree.depth[node]}{figures} {name}{text}"[:width])
    return "\n".join(lines)


def dot(tree: SearchTree, *, width: int = 40) -> str:
    """The tree as Graphviz source: ``dot -Tsvg`` draws it from left to right.

    Boxes have their function's colour and show function, visits, mean value, text (at most ``width``
    characters) and, where a solution was judged, its answer and score; lines are as thick as they
    were travelled.
    """
    colours = hues(tree.grammar)
    lines = [
        "digraph tree {",
        "  rankdir=LR; bgcolor=transparent;",
        '  node [shape=box, style="rounded,filled", fontname="monospace", fontsize=10, color=gray50];',
        "  edge [arrowhead=none, color=gray50];",
    ]
    for node in _from_the_top(tree):
        segment, parent = tree.segment[node], tree.parent[node]
        fill = f"{colours[segment.function] / 360:.3f} 0.22 0.97" if segment else "white"
        label = "\\n".join(map(_escaped, _label(tree, node, width)))
        lines.append(f'  n{node} [label="{label}", fillcolor="{fill}"];')
        if parent >= 0:
            thickness = 0.6 + 5.4 * math.sqrt(tree.visits[node] / max(1, tree.visits[0]))
            lines.append(f"  n{parent} -> n{node} [penwidth={thickness:.2f}];")
    return "\n".join([*lines, "}", ""])


def hues(grammar: Grammar) -> dict[str, int]:
    """A colour for each function, as a hue from 0 to 359 degrees.

    The paper's functions have theirs. Any other's comes from its name, so it is the same in all trees,
    except that it gives way to functions named before it in this grammar. From the 17th function on,
    colours are used twice.
    """
    chosen = {name: _HUES[name] for name in grammar.functions if name in _HUES}
    for name in grammar.functions:
        if name not in chosen:
            digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
            start = int.from_bytes(digest, "big")
            # Seven has no factor in common with sixteen: all are tried, neighbours late.
            tries = [_WHEEL[(start + 7 * k) % len(_WHEEL)] for k in range(len(_WHEEL))]
            chosen[name] = next((hue for hue in tries if hue not in chosen.values()), tries[0])
    return chosen


def _from_the_top(tree: SearchTree) -> Iterator[int]:
    """Every node after its parent, a subtree at a time."""
    waiting = [0]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += reversed(tree.children(node))


def _label(tree: SearchTree, node: int, width: int) -> Iterator[str]:
    segment, value, verdict = tree.segment[node], tree.value(node), tree.verdict[node]
    visits = f"{tree.visits[node]} visit{'' if tree.visits[node] == 1 else 's'}"
    figures = visits + (f", value {value:.2f}" if value is not None else "")
    yield f"{segment.function if segment else 'question'}: {figures}"
    yield _shortened(tree.text(node), width)
    if verdict is not None:
        answer = "no answer" if verdict.answer is None else f"answer {_shortened(verdict.answer, width)}"
        yield answer + (f", score {verdict.score:.2f}" if verdict.score is not None else ", not scored")


def _shortened(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _escaped(text: str) -> str:
    """Text as Graphviz shows it in a quoted label, where a backslash starts an escape, a quote ends the
    label, and an ampersand starts a character reference."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return printable.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
