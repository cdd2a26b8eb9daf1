"""Searches of problems in which every step, finished or not, has a score that is written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rftt import Budget, Grammar, Problem, SearchConfig, Searcher, SearchTree, run_search
from rftt.interfaces import State, Verdict, Verifier
from rftt.testing.finite.tabular import Reply, TabularPolicy
from rftt.tokens.grammar import Function


class StepScores(Verifier):
    """Score a state by the text of its last step, and answer with that text."""

    def __init__(self, scores: Mapping[str, float | None]) -> None:
        self.scores = scores

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        texts = [state.steps[-1].text for state in states]
        return [Verdict(self.scores.get(text), text) for text in texts]


GRAMMAR = Grammar(
    [Function("step", "take a step"), Function("end", "end")],
    start=("step", "end"),
    followers={"step": ("step", "end")},
)


def policy(following: Mapping[str, Mapping[str, float]]) -> TabularPolicy:
    """Build a policy from the texts that may follow a text, each with its probability.

    The question's text is empty. A text that nothing follows ends a solution.
    """
    table: dict[tuple[str, ...], list[Reply]] = {}

    def grow(path: tuple[str, ...]) -> None:
        replies = following.get(path[-1] if path else "", {})
        for text, probability in replies.items():
            function = "step" if text in following else "end"
            table.setdefault(path, []).append(Reply(function, text, probability))
            grow((*path, text))

    grow(())
    return TabularPolicy(GRAMMAR, table)


def search(
    searcher: Searcher,
    following: Mapping[str, Mapping[str, float]],
    scores: Mapping[str, float | None],
    *,
    rollouts: int | None = None,
    seed: int = 0,
) -> SearchTree:
    """Search one problem whose steps and scores are written down."""
    (tree,) = run_search(
        [Problem("p", "what is it?")], searcher, policy(following), StepScores(scores),
        SearchConfig(Budget(rollouts=rollouts), seed=seed, max_depth=6),
    )  # fmt: skip
    return tree


def texts(tree: SearchTree, nodes: Sequence[int]) -> list[str]:
    """Return the texts of some nodes, sorted."""
    return sorted(tree.text(node) for node in nodes)
