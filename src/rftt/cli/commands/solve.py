"""``rftt solve``: one question, its tree drawn as it grows, and the answer with its support."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

import rftt.search.strategies  # noqa: F401  (strategies can be given by their names)
from rftt.cli.command import Command
from rftt.cli.drawing import drawing
from rftt.cli.parser import Parser
from rftt.cli.parts import LOAD_POLICY, SEARCH
from rftt.interfaces import Policy, Verifier
from rftt.problems.problem import Problem
from rftt.search.answers.voting import answered, group_answers
from rftt.search.budget import SearchConfig
from rftt.search.engine.engine import run_search
from rftt.search.searcher import Searcher
from rftt.search.tree.tree import SearchTree


def solve(
    question: str,
    policy: Policy,
    searcher: Searcher,
    verifier: Verifier,
    search: SearchConfig = SEARCH,
    output: Path | None = None,
) -> None:
    """Search one question, draw the tree as it grows, and answer by vote.

    Args:
        question: the question.
        policy: what samples steps: by default a model, with the arguments of load_policy.
        searcher: the strategy.
        verifier: judges where completions end; without a gold answer it groups answers that are equal.
        search: what the tree may spend, and other settings of the search.
        output: folder in which each round is kept; a search that was stopped goes on from there.
    """
    console = Console()
    # What fits the screen, while it grows; then all of it.
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def draw(trees: Sequence[SearchTree], _: int) -> None:
            live.update(drawing(trees[0], max_nodes=console.height - 2), refresh=True)

        problem = Problem("question", question)
        (tree,) = run_search(
            [problem], searcher, policy, verifier, search, directory=output, on_round=draw
        )
    console.print(drawing(tree, max_nodes=len(tree)))
    console.print(answer_line(tree, verifier), markup=False, highlight=False)


def answer_line(tree: SearchTree, verifier: Verifier) -> str:
    """Return the answer that most rollouts reached, and how many did."""
    groups = group_answers(answered(tree), verifier.equivalent)
    if not groups:
        return f"no answer: none of {tree.rollouts} rollouts reached one"
    most = max(groups, key=len)
    others = [group[0][1] for group in groups if group is not most]
    support = f"{len(most)} of {tree.rollouts} rollouts"
    if others:
        support += f"; others: {', '.join(others)}"
    return f"answer: {most[0][1]} ({support})"


def _question(parser: Parser) -> None:
    parser.add_argument("question", help="the question", type=str)


COMMAND = Command(
    solve,
    parts={
        "policy": LOAD_POLICY,
        "searcher": {"class_path": "rftt.MCTS", "init_args": {"expansion": "sample", "width": 3}},
        "verifier": {"class_path": "rftt.MathVerifier"},
    },
    skip=frozenset({"question"}),
    extend=_question,
)
