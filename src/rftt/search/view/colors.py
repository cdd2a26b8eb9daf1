"""Colours of functions, the same wherever a tree is drawn."""

from __future__ import annotations

import hashlib
from typing import Final

from rftt.tokens.grammar import Grammar

_PAPER: Final = {
    "clarify": 182,
    "analysis": 262,
    "subquestion": 300,
    "next_step": 214,
    "direct_answer": 40,
    "verify": 96,
    "refine": 342,
    "output": 152,
}
_WHEEL: Final = (*_PAPER.values(), 12, 26, 60, 124, 198, 238, 281, 320)
"""Hues that can be told apart, in degrees: fewer where the eye sees less difference, as in green."""


def colors(grammar: Grammar) -> dict[str, int]:
    """Return a colour for each function, as a hue from 0 to 359 degrees.

    The paper's functions have fixed hues. Any other function's hue comes from its name, so it is the
    same in all trees, unless a function named before it in this grammar has that hue: then it takes the
    next free one. From the 17th function on, hues are used twice.
    """
    taken = {name: _PAPER[name] for name in grammar.functions if name in _PAPER}
    for name in grammar.functions:
        if name not in taken:
            digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
            start = int.from_bytes(digest, "big")
            # Seven has no factor in common with sixteen: all are tried, neighbours late.
            tries = [_WHEEL[(start + 7 * k) % len(_WHEEL)] for k in range(len(_WHEEL))]
            taken[name] = next((hue for hue in tries if hue not in taken.values()), tries[0])
    return taken
