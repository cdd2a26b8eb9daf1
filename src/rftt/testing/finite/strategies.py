"""Hypothesis strategies: grammars, policies, and finite problems with a known optimum.

Importing this raises ``ImportError`` saying what to install if hypothesis is missing.
"""

from __future__ import annotations

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "the contracts and the hypothesis strategies of rftt.testing need hypothesis: "
        "pip install 'rftt[contract]'"
    ) from error

from rftt.interfaces import Verdict
from rftt.testing.finite.problem import FiniteProblem, Path, leaves
from rftt.testing.finite.tabular import Reply, TabularPolicy
from rftt.tokens.grammar import Function, Grammar

_NAMES = ("a", "b", "c", "d")
_ANSWERS = ("0", "1", "2")


@st.composite
def grammars(draw: st.DrawFn) -> Grammar:
    """One to four functions and a terminal one; every function can be reached and can reach the end."""
    names = _NAMES[: draw(st.integers(1, 4))]
    functions = [Function(name, f"do {name}") for name in (*names, "end")]
    after = {name: draw(st.sets(st.sampled_from([*names, "end"]))) | {"end"} for name in names}
    return Grammar(functions, start=names, followers={n: tuple(sorted(f)) for n, f in after.items()})


@st.composite
def policies(draw: st.DrawFn, unique: bool = False, max_depth: int = 4) -> TabularPolicy:
    """Finite policies over random grammars.

    Each state has one to three replies, some of them of the same function; leaves hold a boxed
    answer, 0, 1 or 2.

    Args:
        draw: is given by hypothesis.
        unique: whether each function has at most one reply, so that forcing functions determines the
            path.
        max_depth: most steps to a leaf, at least 2: one function and the terminal one.
    """
    table: dict[Path, list[Reply]] = {}
    grammar = draw(grammars())
    _fill(draw, grammar, table, (), None, draw(st.integers(0, max_depth - 1)), unique)
    return TabularPolicy(grammar, table)


def _fill(
    draw: st.DrawFn, grammar: Grammar, table: dict[Path, list[Reply]], path: Path, last: str | None,
    depth: int, unique: bool,
) -> None:  # fmt: skip
    legal = grammar.legal(last)
    if not legal:
        return
    if depth <= 0 and "end" in legal:
        legal = ("end",)
    functions = draw(st.lists(st.sampled_from(legal), min_size=1, max_size=3, unique=unique))
    weights = [draw(st.integers(1, 4)) for _ in functions]
    replies = []
    for i, (function, weight) in enumerate(zip(functions, weights, strict=True)):
        answer = f"{i} so \\boxed{{{draw(st.sampled_from(_ANSWERS))}}}" if function == "end" else None
        replies.append(Reply(function, answer or f"{function}{i}", weight / sum(weights)))
    table[path] = replies
    for reply in replies:
        _fill(draw, grammar, table, (*path, reply.text), reply.function, depth - 1, unique)


@st.composite
def finite_problems(
    draw: st.DrawFn,
    rewards: tuple[float, float] = (0.0, 1.0),
    unique: bool = False,
    max_depth: int = 4,
) -> FiniteProblem:
    """Finite problems: each leaf of a random policy has a verdict, some of which abstain.

    Args:
        draw: is given by hypothesis.
        rewards: the lowest and the highest score.
        unique: as in :func:`policies`.
        max_depth: as in :func:`policies`.
    """
    policy = draw(policies(unique, max_depth))
    low, high = rewards
    scores = st.sampled_from([low, high, low + (high - low) / 4]) | st.none()
    return FiniteProblem(
        policy, {leaf: Verdict(draw(scores), _boxed(leaf[-1])) for leaf in leaves(policy)}
    )


def _boxed(text: str) -> str | None:
    return next((answer for answer in _ANSWERS if f"\\boxed{{{answer}}}" in text), None)
