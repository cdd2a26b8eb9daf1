"""A search tree as one HTML page to click through: follow a path, compare siblings, see the votes.

The page is one file that loads nothing, so it can be opened from disk, mailed, or kept with a run. It
holds the tree as JSON, and its script draws only what is unfolded, which keeps it quick with thousands
of nodes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from importlib import resources
from pathlib import Path
from typing import Any

from rftt.search.tree.tree import SearchTree
from rftt.search.view.colors import colors


def save_page(path: Path | str, tree: SearchTree) -> None:
    """Write the page of one tree to a file, to be opened with any browser.

    Raises:
        OSError: if the file cannot be written.
    """
    # A lone surrogate, which broken byte sequences decode to in some tokenizers, has no UTF-8.
    Path(path).write_text(page(tree), encoding="utf-8", errors="xmlcharrefreplace")


def page(tree: SearchTree) -> str:
    """Return one tree as a self-contained HTML page."""
    style, script = _part("page.css"), _part("page_outline.js") + _part("page_panels.js")
    parts = {
        "title": html.escape(f"{tree.problem.id}: {' '.join(tree.problem.question.split())[:80]}"),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        "tree": _json(tree),
    }
    # In one pass, so that nothing in a tree is taken for a placeholder.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _part("page.html"))


def _part(name: str) -> str:
    return resources.files("rftt.search.view").joinpath(name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    """Return the hash by which the page's content security policy lets this source run, and no other."""
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _json(tree: SearchTree) -> str:
    """Return the tree as JSON that cannot end the element it stands in."""
    return json.dumps(_data(tree), allow_nan=False).replace("<", "\\u003c")


def _data(tree: SearchTree) -> dict[str, Any]:
    """Return what the script draws: figures of the tree, and one list a column, one entry a node."""
    hues = colors(tree.grammar)
    functions = tree.grammar.functions.values()
    nodes = range(len(tree))
    return {
        "id": tree.problem.id,
        "gold": tree.problem.answer,
        "functions": {f.name: {"hue": hues[f.name], "description": f.description} for f in functions},
        "rounds": tree.rounds,
        "rollouts": tree.rollouts,
        "tokens": tree.tokens,
        "parent": tree.parent,
        "function": [s.function if s else None for s in tree.step],
        "text": [tree.text(node) for node in nodes],
        "ids": [len(s.ids) if s else 0 for s in tree.step],
        "actions": [sum(s.action_mask) if s else 0 for s in tree.step],
        "log_prob": [_number(sum(s.log_probs)) if s else None for s in tree.step],
        "truncated": [s is not None and s.truncated for s in tree.step],
        "exhausted": tree.exhausted,
        "visits": tree.visits,
        "ended": tree.ended,
        "value_count": tree.value_count,
        "value": [_number(tree.value(node)) for node in nodes],
        "verdict": [
            v and {"answer": v.answer, "score": _number(v.score), "reason": v.reason}
            for v in tree.verdict
        ],
        "prior": [p and {name: math.exp(log_p) for name, log_p in p.items()} for p in tree.prior],
    }


def _number(value: float | None) -> float | str | None:
    """Return a number that JSON has; infinities and NaN become their names."""
    return value if value is None or math.isfinite(value) else str(value)
