"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rftt.evaluation.intervals import Estimate
from rftt.evaluation.report import Report


def markdown(report: Report) -> str:
    """Return scores, comparisons and accuracies by group as Markdown tables."""
    some = next(iter(report.arms.values()))
    lines = [f"Accuracy on {len(some.chosen().values)} problems, % (95% interval).", ""]
    rows = []
    for score in report.scores():
        arm = report.arms[score.arm]
        unanswered = f"{100 * arm.unanswered:.1f}" if score.name == score.arm else ""
        rows.append([score.name, _percent(score.estimate), f"{score.tokens:.0f}", unanswered])
    lines += _table(["", "accuracy", "tokens a problem", "rollouts without an answer, %"], rows)
    if comparisons := report.comparisons():
        lines += ["", "The second less the first, in points, problem by problem.", ""]
        rows = [
            [
                c.first,
                c.second,
                f"{100 * c.difference.value:+.1f} "
                f"({100 * c.difference.low:+.1f} to {100 * c.difference.high:+.1f})",
                f"{c.difference.p_value:.3g} ({c.difference.test})",
                f"{c.difference.first_better}, {c.difference.second_better}",
                f"{c.token_ratio:.2f}",
            ]
            for c in comparisons
        ]
        heads = ["first", "second", "difference", "p", "first, second better on", "tokens, ratio"]
        lines += _table(heads, rows)
    for key, labels in report.groups.items():
        lines += ["", f"By {key}.", ""]
        rows = [
            [label, str(labels.count(label)), *map(_percent, scores.values())]
            for label, scores in report.by_group(key).items()
        ]
        lines += _table([key, "problems", *report.arms], rows)
    return "\n".join(lines) + "\n"


def _percent(found: Estimate) -> str:
    return f"{100 * found.value:.1f} ({100 * found.low:.1f}-{100 * found.high:.1f})"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(heads), _row(["---"] * len(heads)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
