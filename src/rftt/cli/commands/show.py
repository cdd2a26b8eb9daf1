"""``rftt show``: look at the trees of a run."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from rftt.cli.command import Command
from rftt.cli.drawing import drawing
from rftt.cli.parser import Parser
from rftt.search.tree.storage import load_trees
from rftt.search.tree.tree import SearchTree
from rftt.search.view.page import save_page


def show(run: Path, tree: str | None = None, page: Path | None = None, max_nodes: int = 60) -> None:
    """Draw one tree of a run, and write it as a page to click through.

    Args:
        run: a file of trees, or the folder of a run that has one.
        tree: the id of its problem, or its place, from 0; by default the first one.
        page: where to write the page, by default tree.html beside the trees.
        max_nodes: most steps that are drawn; the page has all.
    """
    path = _file(run)
    trees = load_trees(path)
    chosen = _chosen(trees, tree or "0")
    Console().print(drawing(chosen, max_nodes=max_nodes))
    page = page or path.with_name("tree.html")
    save_page(page, chosen)
    print(f"tree {chosen.problem.id!r}, one of {len(trees)} in {path}; as a page: {page}")


def _file(run: Path) -> Path:
    if not run.is_dir():
        return run
    files = sorted(run.glob("*trees.jsonl"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise FileNotFoundError(f"{run}: no file of trees there (*trees.jsonl); is the search finished?")
    return files[-1]


def _chosen(trees: list[SearchTree], name: str) -> SearchTree:
    for tree in trees:
        if tree.problem.id == name:
            return tree
    if name.isdigit() and int(name) < len(trees):
        return trees[int(name)]
    raise ValueError(
        f"no tree {name!r}: give a place from 0 to {len(trees) - 1}, or an id such as "
        f"{trees[0].problem.id!r}"
    )


def _run(parser: Parser) -> None:
    parser.add_argument("run", type=Path, help="a file of trees, or the folder of a run that has one")


COMMAND = Command(show, skip=frozenset({"run"}), extend=_run)
