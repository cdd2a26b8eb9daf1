"""``rftt demo``: the loop, and then its report."""

from __future__ import annotations

import json
import logging
import time
import warnings
from pathlib import Path

from rftt.demo.loop import Demo
from rftt.demo.report import Results, draw_curves, most_telling, table
from rftt.demo.settings import DemoSettings
from rftt.search.tree.storage import load_trees
from rftt.search.view.page import save_page


def run_demo(output: Path, settings: DemoSettings) -> None:
    """Run the loop in a folder, print the table, and as the last line the figures as JSON."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    start = time.monotonic()
    demo = Demo(output, settings)
    results = demo.run()
    draw_curves(output / "metrics", output / "training_curve.png")
    save_page(output / "search_tree.html", most_telling(load_trees(output / "reinforce_trees.jsonl")))
    print("\n" + table(results))
    print("\nseconds: " + ", ".join(f"{stage} {s:.0f}" for stage, s in demo.seconds.items()))
    print(f"results are in {output}")
    figures = as_figures(results) | {"seconds": round(time.monotonic() - start, 1)}
    (output / "result.json").write_text(json.dumps(figures) + "\n")
    print(json.dumps(figures))


def as_figures(results: Results) -> dict[str, object]:
    """Return accuracies and intervals as plain numbers."""
    some = next(iter(next(iter(results.values())).values()))
    accuracies = {
        name: {run: round(e.accuracy, 4) for run, e in runs.items()} for name, runs in results.items()
    }
    intervals = {
        name: {run: [round(bound, 4) for bound in e.interval] for run, e in runs.items()}
        for name, runs in results.items()
    }
    return accuracies | {"intervals": intervals, "problems": len(some.marks)}
