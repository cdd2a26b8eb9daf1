"""Arbitrary replies, and trees grown from them: all that the interfaces allow, likely or not."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hypothesis import strategies as st

from rftt.finite.strategies import grammars
from rftt.interfaces import Extension, Segment, Until, Verdict
from rftt.problems.problem import Problem
from rftt.search.tree import SearchTree
from rftt.tokens.grammar import Grammar

_LONGEST = 4
_OPENER = 9

# Made once: hypothesis looks at each new strategy before it draws from it.
_LENGTH = st.integers(1, _LONGEST)
_TEXT = st.sampled_from(["", "x", "y"])
_IDS = st.lists(st.integers(1, 3), max_size=2)
_LOG_PROB = st.sampled_from([-0.5, -3.0, 0.0])
_FLAG = st.booleans()
_SELDOM = st.sampled_from([False, False, False, True])
_SCORE = st.none() | st.integers(0, 4)
_QUARTERS = st.integers(0, 4)
_ANSWER = st.none() | st.sampled_from(["1", "2"])


@st.composite
def chains(draw: st.DrawFn, grammar: Grammar, request: Extension) -> list[Segment]:
    """A reply to a request: one to four steps, often equal, sometimes without a single id; steps may end
    the solution before a terminal function does, or be cut; a chain may stop short of an end."""
    longest = 1 if request.until == "step" else request.max_steps
    left, last = request.max_tokens, request.state.last
    chain: list[Segment] = []
    for _ in range(min(longest, draw(_LENGTH))):
        forced = request.function if not chain else None
        function = forced or draw(st.sampled_from(grammar.legal(last)))
        # An opener, where there is one, is forced with the function, and what is forced is not chosen.
        opener = (_OPENER,) * draw(_FLAG)
        prefix = () if chain else request.prefix
        ids = (*opener, *prefix, *draw(_IDS))[:left]
        is_forced = [forced is not None] * len(opener) + [True] * len(prefix)
        chosen = [not (i < len(is_forced) and is_forced[i]) for i in range(len(ids))]
        ends_early = draw(_SELDOM)
        is_final = ends_early or grammar.is_terminal(function)
        chain.append(
            Segment(
                function, draw(_TEXT), ids, [draw(_LOG_PROB)] * len(ids), chosen, is_final,
                is_cut=ends_early and draw(_FLAG), body_start=min(len(opener), len(ids)),
            )
        )  # fmt: skip
        if is_final:
            break
        left, last = left - len(ids), function
    return chain


@st.composite
def verdicts(draw: st.DrawFn, steps: int, rewards: tuple[float, float] = (0.0, 1.0)) -> Verdict:
    """A verdict on a solution of so many steps: a score in ``rewards`` or an abstention, with and
    without an answer and scores for the steps."""
    low, high = rewards
    each = (
        tuple(low + (high - low) * draw(_QUARTERS) / 4 for _ in range(steps)) if draw(_SELDOM) else None
    )
    quarter = draw(_SCORE)
    score = None if quarter is None else low + (high - low) * quarter / 4
    return Verdict(score, draw(_ANSWER), step_scores=each)


@st.composite
def priors(draw: st.DrawFn, legal: tuple[str, ...]) -> Mapping[str, float]:
    """Log-probabilities of some of the functions that may follow, in any order."""
    names = draw(st.lists(st.sampled_from(legal), min_size=1, unique=True))
    weights = [draw(st.integers(1, 3)) for _ in names]
    return {name: math.log(w / sum(weights)) for name, w in zip(names, weights, strict=True)}


@st.composite
def trees(
    draw: st.DrawFn, max_samples: int = 8, max_depth: int = 5, rewards: tuple[float, float] = (0.0, 1.0)
) -> SearchTree:
    """Trees as a search may leave them, over random grammars: visits and totals are those of
    undiscounted rollouts; priors are known at some nodes, and some nodes are closed.

    Args:
        draw: is given by hypothesis.
        max_samples: most chains on the tree.
        max_depth: the tree's depth limit.
        rewards: the lowest and the highest score.
    """
    grammar = draw(grammars())
    tree = SearchTree(Problem("p", "what is it?", "1"), grammar, draw(st.integers(1, max_depth)))
    for _ in range(draw(st.integers(0, max_samples))):
        inner = [node for node in range(len(tree)) if tree.is_open(node)]
        if not inner:
            break
        node = draw(st.sampled_from(inner))
        until: Until = draw(st.sampled_from(("step", "answer")))
        depth_left = tree.max_depth - tree.depth[node]
        request = Extension(tree.state(node), seed=0, until=until, max_steps=depth_left)
        for segment in draw(chains(grammar, request)):
            node = tree.attach(node, segment)
        if until == "answer" or tree.is_terminal(node):
            tree.verdict[node] = draw(verdicts(tree.depth[node], rewards))
        verdict = tree.verdict[node]
        tree.backup(node, None if verdict is None else verdict.score)
        tree.samples += 1
        tree.rounds += draw(st.booleans())
    for node in range(len(tree)):
        if tree.is_open(node) and draw(st.booleans()):
            tree.prior[node] = draw(priors(tree.legal(node)))
        elif not tree.children(node) and draw(st.booleans()):
            tree.close(node)
    return tree
