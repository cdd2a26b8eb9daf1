"""A search tree as text, one line a node. For a page to click through, see
:mod:`rftt.search.view.page`."""

from __future__ import annotations

from collections.abc import Iterator

from rftt.interfaces import Verdict
from rftt.search.tree.tree import SearchTree


def render(tree: SearchTree, *, width: int = 100, max_nodes: int | None = None) -> str:
    """Return a search tree as indented text, one line a node, each parent above its children.

    A line holds the node's number, function, text, visits, mean value, verdict (score and answer, or
    that the verifier abstained), and whether it is terminal, truncated or exhausted::

        0 question "What is 3 + 4?" visits 2 value 0.5
          1 next_step "3 + 4 = 7" visits 1 value 1 score 1 answer "7" terminal
          2 next_step "3 + 4 =" visits 1 value 0 abstained truncated

    Args:
        tree: the tree.
        width: most characters in a line; texts are shortened to fit.
        max_nodes: most nodes; how many were left out is said at the end. ``None`` is all.
    """
    shown = len(tree) if max_nodes is None else min(max_nodes, len(tree))
    lines = [_line(tree, node, width) for _, node in zip(range(shown), _preorder(tree), strict=False)]
    if shown < len(tree):
        lines.append(f"... {len(tree) - shown} more"[:width])
    return "\n".join(lines)


def _preorder(tree: SearchTree) -> Iterator[int]:
    """Yield every node after its parent, a subtree at a time."""
    stack = [0]
    while stack:
        node = stack.pop()
        yield node
        stack += reversed(tree.children[node])


def _line(tree: SearchTree, node: int, width: int) -> str:
    step = tree.step[node]
    # Indentation leaves room for the rest of the line, however deep the tree.
    indent = " " * min(2 * tree.depth[node], width // 2)
    head = f"{indent}{node} {step.function if step else 'question'} "
    tail = " " + " ".join(_facts(tree, node))
    text = _shortened(tree.text(node), max(1, width - len(head) - len(tail) - 2))
    return f'{head}"{text}"{tail}'[:width]


def _facts(tree: SearchTree, node: int) -> Iterator[str]:
    step, value, verdict = tree.step[node], tree.value(node), tree.verdict[node]
    yield f"visits {tree.visits[node]}"
    if value is not None:
        yield f"value {value:.3g}"
    if verdict is not None:
        yield from _verdict(verdict)
    if step is not None and step.truncated:
        yield "truncated"
    elif step is not None and step.terminal:
        yield "terminal"
    if tree.exhausted[node]:
        yield "exhausted"


def _verdict(verdict: Verdict) -> Iterator[str]:
    yield "abstained" if verdict.score is None else f"score {verdict.score:.3g}"
    if verdict.answer is not None:
        yield f'answer "{_shortened(verdict.answer, 20)}"'


def _shortened(text: str, length: int) -> str:
    """Return a text on one line, in printable characters, cut to a length."""
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
    return line if len(line) <= length else line[: length - 1] + "…"
