"""What a run leaves for people: a table, a training curve, a drawn tree."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

from rftt.search.tree import SearchTree
from rftt.tuning.evaluation import Evaluation

mpl.use("agg")
from matplotlib import pyplot as plt

Results = Mapping[str, Mapping[str, Evaluation]]


def table(results: Results) -> str:
    """Accuracy with its 95% interval, by model and run, and the use of each function."""
    runs = list(next(iter(results.values())))
    heads = {"greedy": "greedy"} | {
        n: f"{n} sample" if n == "1" else f"{n} rollouts" for n in runs if n != "greedy"
    }
    lines = [
        "held-out accuracy, % (95% interval)",
        f"{'':12}" + "".join(f"{heads[run]:>22}" for run in runs),
    ]
    for name, evaluations in results.items():
        cells = []
        for run in runs:
            low, high = evaluations[run].interval
            cells.append(f"{100 * evaluations[run].accuracy:.1f} ({100 * low:.1f}-{100 * high:.1f})")
        lines.append(f"{name:12}" + "".join(f"{cell:>22}" for cell in cells))
    lines += ["", "functions used, in 100 solutions of one sample"]
    names = list(dict.fromkeys(f for e in results.values() for f in e["1"].functions))
    lines.append(f"{'':12}" + "".join(f"{name:>15}" for name in names))
    for name, evaluations in results.items():
        one = evaluations["1"]
        shares = [100 * one.functions.get(f, 0) / len(one.marks) for f in names]
        lines.append(f"{name:12}" + "".join(f"{share:>15.0f}" for share in shares))
    return "\n".join(lines)


def draw_curves(metrics: Path, picture: Path) -> None:
    """The fine-tuning loss and the reward of reinforcement, update by update."""
    panels = (
        ("warm_up", "loss", "warm-up: negative log-likelihood"),
        ("reinforce", "tree_score", "reinforcement: share of right rollouts"),
        ("reinforce", "kl_to_reference", "reinforcement: KL to the warmed-up model"),
    )
    figure, axes = plt.subplots(1, len(panels), figsize=(12, 3.2), constrained_layout=True)
    for axis, (phase, column, title) in zip(axes, panels, strict=True):
        with (metrics / phase / "metrics.csv").open() as file:
            points = [(int(r["step"]), float(r[column])) for r in csv.DictReader(file) if r.get(column)]
        axis.plot(*zip(*points, strict=True))
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("update")
        axis.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def draw_tree(tree: SearchTree, picture: Path) -> None:
    """A search tree from left to right: each step a box coloured by its function, with its text,
    visits and mean value."""
    rows: dict[int, float] = {}
    leaves = 0

    def place(node: int) -> float:
        nonlocal leaves
        below = [place(child) for child in tree.children(node)]
        if not below:
            leaves += 1
        rows[node] = sum(below) / len(below) if below else float(leaves)
        return rows[node]

    place(0)
    colours = dict(zip(tree.grammar.functions, mpl.color_sequences["Set3"], strict=False))
    depth = max(tree.depth) + 1
    figure, axis = plt.subplots(figsize=(3.4 * depth, 0.62 * leaves + 0.6))
    for node in range(len(tree)):
        segment, parent = tree.segment[node], tree.parent[node]
        if parent >= 0:
            axis.plot(
                [tree.depth[parent] + 0.42, tree.depth[node] - 0.42], [rows[parent], rows[node]],
                color="0.6", linewidth=0.8, zorder=1,
            )  # fmt: skip
        value = tree.value(node)
        figures = f"{tree.visits[node]} visits" + (f", value {value:.2f}" if value is not None else "")
        name = f"<{segment.function}>" if segment else "question"
        axis.text(
            tree.depth[node], rows[node], f"{name}  {figures}\n{_shortened(tree.text(node))}",
            ha="center", va="center", fontsize=7, family="monospace", zorder=2,
            bbox={"boxstyle": "round", "facecolor": colours[segment.function] if segment else "white"},
        )  # fmt: skip
    axis.set_xlim(-0.5, depth - 0.5)
    axis.set_ylim(leaves + 0.7, 0.3)
    axis.axis("off")
    figure.savefig(picture, dpi=110, bbox_inches="tight")
    plt.close(figure)


def _shortened(text: str, width: int = 40) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def most_telling(trees: Sequence[SearchTree]) -> SearchTree:
    """The tree to show: one with both right and wrong rollouts and as many functions as possible."""

    def interest(tree: SearchTree) -> tuple[bool, int, int]:
        functions = {segment.function for segment in tree.segment if segment}
        return 0 < tree.total[0] < tree.judged[0], len(functions), -len(tree)

    return max(trees, key=interest)
