"""Hypothesis strategies for all replies that the interfaces allow, likely or not, and trees of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hypothesis import strategies as st

from rftt.interfaces import GenerationRequest, Step, Until, Verdict
from rftt.problems.problem import Problem
from rftt.search.tree.tree import SearchTree
from rftt.testing.finite.strategies import grammars
from rftt.tokens.grammar import Grammar

_MAX_STEPS = 4
_OPENER = 9

# Made once: hypothesis looks at each new strategy before it draws from it.
_LENGTH = st.integers(1, _MAX_STEPS)
_TEXT = st.sampled_from(["", "x", "y"])
_IDS = st.lists(st.integers(1, 3), max_size=2)
_LOG_PROB = st.sampled_from([-0.5, -3.0, 0.0])
_FLAG = st.booleans()
_SELDOM = st.sampled_from([False, False, False, True])
_SCORE = st.none() | st.integers(0, 4)
_QUARTERS = st.integers(0, 4)
_WEIGHT = st.sampled_from([1.0, 2.0, 3.0])
_EXTREME_WEIGHT = st.sampled_from([1.0, 1e-3, 0.0])
_ANSWER = st.none() | st.sampled_from(["1", "2"])


@st.composite
def completions(draw: st.DrawFn, grammar: Grammar, request: GenerationRequest) -> list[Step]:
    """Completions of a request: one to four steps, often equal, sometimes without a single id. A step
    may end the solution before a terminal function does, or be truncated, and a completion may stop
    short of an end."""
    most = 1 if request.until == "step" else request.max_steps
    left, last = request.max_tokens, request.state.last
    steps: list[Step] = []
    for _ in range(min(most, draw(_LENGTH))):
        forced = None if steps else request.function
        function = forced or draw(st.sampled_from(grammar.legal(last)))
        # An opener, where there is one, is forced with the function.
        opener = (_OPENER,) * draw(_FLAG)
        prefix = () if steps else request.prefix
        action_mask = [forced is None] * len(opener) + [False] * len(prefix)
        body = draw(_IDS)[: max(0, left - sum(action_mask))]
        ids, action_mask = (*opener, *prefix, *body), action_mask + [True] * len(body)
        ends_early = draw(_SELDOM)
        terminal = ends_early or grammar.is_terminal(function)
        steps.append(
            Step(
                function, draw(_TEXT), ids, [draw(_LOG_PROB)] * len(ids), action_mask, terminal,
                truncated=ends_early and draw(_FLAG), body_start=len(opener),
            )
        )  # fmt: skip
        left, last = left - sum(action_mask), function
        if terminal or left <= 0:
            break
    return steps


@st.composite
def verdicts(draw: st.DrawFn, steps: int, rewards: tuple[float, float] = (0.0, 1.0)) -> Verdict:
    """Verdicts on a solution of so many steps: a score in ``rewards`` or an abstention, with and
    without an answer and scores of the steps."""
    low, high = rewards
    each = (
        tuple(low + (high - low) * draw(_QUARTERS) / 4 for _ in range(steps)) if draw(_SELDOM) else None
    )
    quarter = draw(_SCORE)
    score = None if quarter is None else low + (high - low) * quarter / 4
    return Verdict(score, draw(_ANSWER), step_scores=each)


@st.composite
def priors(draw: st.DrawFn, legal: tuple[str, ...]) -> Mapping[str, float]:
    """Log-probabilities of some of the functions that may follow, in any order. Now and then some are
    next to impossible, or impossible (minus infinity) where another is possible."""
    names = draw(st.lists(st.sampled_from(legal), min_size=1, unique=True))
    weights = [draw(_EXTREME_WEIGHT if draw(_SELDOM) else _WEIGHT) for _ in names]
    total = sum(weights)
    if not total:
        weights, total = [1.0] * len(names), float(len(names))
    return {n: math.log(w / total) if w else -math.inf for n, w in zip(names, weights, strict=True)}


@st.composite
def trees(
    draw: st.DrawFn,
    max_rollouts: int = 8,
    max_depth: int = 5,
    rewards: tuple[float, float] = (0.0, 1.0),
) -> SearchTree:
    """Trees as a search may leave them, over random grammars.

    Visits and sums are those of undiscounted rollouts, some of which the budget cut, so that they are
    not judged. Priors are known at some nodes, and some nodes are exhausted.

    Args:
        draw: is given by hypothesis.
        max_rollouts: most completions on the tree.
        max_depth: most steps that the tree's depth limit may be.
        rewards: the lowest and the highest score.
    """
    grammar = draw(grammars())
    tree = SearchTree(Problem("p", "what is it?", "1"), grammar, draw(st.integers(1, max_depth)))
    for _ in range(draw(st.integers(0, max_rollouts))):
        open_nodes = [node for node in range(len(tree)) if tree.is_open(node)]
        if not open_nodes:
            break
        _add_rollout(draw, tree, draw(st.sampled_from(open_nodes)), rewards)
    for node in range(len(tree)):
        if tree.is_open(node) and draw(st.booleans()):
            tree.prior[node] = draw(priors(tree.legal(node)))
        elif not tree.children[node] and draw(st.booleans()):
            tree.mark_exhausted(node)
    return tree


def _add_rollout(draw: st.DrawFn, tree: SearchTree, node: int, rewards: tuple[float, float]) -> None:
    until: Until = draw(st.sampled_from(("step", "solution")))
    depth_left = tree.max_depth - tree.depth[node]
    request = GenerationRequest(tree.state(node), seed=0, until=until, max_steps=depth_left)
    steps = draw(completions(tree.grammar, request))
    for step in steps:
        node = tree.attach(node, step)
    is_finished = tree.is_terminal(node) and not steps[-1].truncated
    is_cut = not is_finished and draw(_SELDOM)
    if (until == "solution" or tree.is_terminal(node)) and not is_cut:
        tree.verdict[node] = draw(verdicts(tree.depth[node], rewards))
    verdict = tree.verdict[node]
    tree.backup(node, None if verdict is None else verdict.score)
    tree.rollouts += 1
    tree.rounds += draw(st.booleans())
