"""A report in a folder: JSON with all that is needed to repeat it, Markdown, and a plot."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import attrs

from rftt.evaluation.plot import draw_tokens
from rftt.evaluation.report import Report
from rftt.evaluation.results import evaluation_from_json, evaluation_to_json
from rftt.evaluation.table import markdown
from rftt.files import atomic_write


def save_report(directory: Path | str, report: Report) -> None:
    """Write ``report.json``, ``report.md`` and ``tokens.png`` into a folder."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report_to_json(report), ensure_ascii=False, indent=1, allow_nan=False)
    with atomic_write(directory / "report.json") as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    with atomic_write(directory / "report.md") as partial:
        partial.write_text(markdown(report), encoding="utf-8")
    with atomic_write(directory / "tokens.png") as partial:
        draw_tokens(report, partial)


def load_report(path: Path | str) -> Report:
    """Read a ``report.json``. Its figures are made again from the marks, and are the same.

    Raises:
        ValueError: naming the file, if it is not a report.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        return Report(
            arms={name: evaluation_from_json(arm) for name, arm in data["arms"].items()},
            groups={key: tuple(labels) for key, labels in data["groups"].items()},
            seed=data["seed"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a report: {error!r}") from error


def report_to_json(report: Report) -> dict[str, Any]:
    """Return figures first, then marks, answers, tokens and settings of each arm, as JSON-able data."""
    return {
        "scores": [
            {
                "name": score.name,
                "accuracy": score.estimate.value,
                "low": score.estimate.low,
                "high": score.estimate.high,
                "tokens": score.tokens,
            }
            for score in report.scores()
        ],
        "comparisons": [
            {
                "first": comparison.first,
                "second": comparison.second,
                **attrs.asdict(comparison.difference),
                "token_ratio": comparison.token_ratio if math.isfinite(comparison.token_ratio) else None,
            }
            for comparison in report.comparisons()
        ],
        "seed": report.seed,
        "groups": {key: list(labels) for key, labels in report.groups.items()},
        "arms": {name: evaluation_to_json(arm) for name, arm in report.arms.items()},
    }
