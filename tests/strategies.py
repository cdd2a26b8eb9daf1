"""Hypothesis strategies: grammars, and finite problems with every outcome known."""

from __future__ import annotations

from hypothesis import strategies as st

from rftt import (
    MCTS,
    BeamSearch,
    BestOfN,
    Budget,
    Function,
    Grammar,
    Problem,
    Reply,
    Searcher,
    TabularPolicy,
)

NAMES = ("a", "b", "c", "d")


@st.composite
def grammars(draw: st.DrawFn) -> Grammar:
    """Up to four functions and a terminal one; every function can be reached and can reach the end."""
    names = NAMES[: draw(st.integers(1, 4))]
    functions = [Function(name, f"do {name}") for name in (*names, "end")]
    after = {name: draw(st.sets(st.sampled_from([*names, "end"]))) | {"end"} for name in names}
    return Grammar(functions, start=names, followers={n: tuple(sorted(f)) for n, f in after.items()})


def _grow(
    draw: st.DrawFn, grammar: Grammar, table: dict[tuple[str, ...], list[Reply]], path: tuple[str, ...],
    last: str | None, depth: int, unique: bool,
) -> None:  # fmt: skip
    legal = grammar.legal(last)
    if not legal:
        return
    if depth <= 0 and "end" in legal:
        legal = ("end",)
    chosen = draw(st.lists(st.sampled_from(legal), min_size=1, max_size=3, unique=unique))
    weights = [draw(st.integers(1, 4)) for _ in chosen]
    replies = []
    for i, (function, weight) in enumerate(zip(chosen, weights, strict=True)):
        text = f"{function}{i}" if function != "end" else f"{i} so \\boxed{{{draw(st.integers(0, 2))}}}"
        replies.append(Reply(function, text, weight / sum(weights)))
    table[path] = replies
    for reply in replies:
        _grow(draw, grammar, table, (*path, reply.text), reply.function, depth - 1, unique)


@st.composite
def policies(draw: st.DrawFn, unique: bool = False) -> TabularPolicy:
    """A finite problem over a random grammar; ``unique``: each function has one reply at most."""
    grammar = draw(grammars())
    table: dict[tuple[str, ...], list[Reply]] = {}
    _grow(draw, grammar, table, (), None, draw(st.integers(0, 3)), unique)
    return TabularPolicy(grammar, table)


def problems(count: int = 1) -> list[Problem]:
    """Problems whose right answer is 1."""
    return [Problem(f"p{i}", "what is it?", "1") for i in range(count)]


searchers: st.SearchStrategy[Searcher] = st.one_of(
    st.builds(
        MCTS,
        exploration=st.sampled_from([0.0, 1.0, 2.0]),
        openers=st.sampled_from(["ranked", "sampled"]),
        width=st.integers(1, 3),
        parallel=st.integers(1, 4),
        discount=st.sampled_from([1.0, 0.9]),
    ),
    st.builds(BeamSearch, width=st.integers(1, 3), branching=st.integers(1, 3)),
    st.builds(BestOfN, n=st.integers(1, 6)),
)

budgets: st.SearchStrategy[Budget] = st.builds(
    Budget,
    rollouts=st.integers(1, 20),
    nodes=st.none() | st.integers(1, 20),
    tokens=st.none() | st.integers(1, 20),
    rounds=st.none() | st.integers(1, 8),
)
