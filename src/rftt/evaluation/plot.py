"""Accuracy against tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rftt.evaluation.report import Report, Score


def draw_tokens(report: Report, path: Path | str) -> None:
    """Draw each score over its tokens a problem, with 95% intervals, as a picture.

    The points of pass@k, of the vote of k and of the best of k of an arm are connected, and so are the
    arms whose names differ in the last number only, such as ``mcts 4`` and ``mcts 16``.
    """
    # A second of imports, and only a picture needs them.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes: Any = figure.subplots()
    for name, scores in _lines(report.scores()).items():
        scores = sorted(scores, key=lambda score: score.tokens)
        values = [100 * s.estimate.value for s in scores]
        below = [100 * max(0.0, s.estimate.value - s.estimate.low) for s in scores]
        above = [100 * max(0.0, s.estimate.high - s.estimate.value) for s in scores]
        axes.errorbar(
            [max(1.0, s.tokens) for s in scores], values, yerr=[below, above], label=name,
            marker="o", markersize=4, capsize=2, linewidth=1,
            linestyle="--" if " pass@" in scores[0].name else "-",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("sampled tokens a problem")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120, format="png")


def _lines(scores: Sequence[Score]) -> dict[str, list[Score]]:
    lines: dict[str, list[Score]] = {}
    for score in scores:
        lines.setdefault(re.sub(r"\d+\Z", "k", score.name), []).append(score)
    return {line[0].name if len(line) == 1 else name: line for name, line in lines.items()}
