"""What a run leaves for people: a table, a training curve, and the tree to show."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

from rftt.evaluation.results import Evaluation
from rftt.search.tree.tree import SearchTree

mpl.use("agg")
from matplotlib import pyplot as plt

Results = Mapping[str, Mapping[str, Evaluation]]


def table(results: Results) -> str:
    """Return a table of accuracies with 95% intervals, and of the use of each function."""
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
    """Draw the fine-tuning loss, and reward and KL of reinforcement, update by update."""
    panels = (
        ("warm_up", "loss", "warm-up: negative log-likelihood"),
        ("reinforce", "reward", "reinforcement: share of right rollouts"),
        ("reinforce", "kl", "reinforcement: KL to the warmed-up model"),
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


def most_telling(trees: Sequence[SearchTree]) -> SearchTree:
    """Return the tree with the most functions, among those with both right and wrong rollouts."""

    def interest(tree: SearchTree) -> tuple[bool, int, int]:
        functions = {step.function for step in tree.step if step}
        return 0 < tree.value_sum[0] < tree.value_count[0], len(functions), -len(tree)

    return max(trees, key=interest)
