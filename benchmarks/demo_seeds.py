"""The main job for several seeds: python benchmarks/demo_seeds.py --seeds 1 2 3 4 5 --output runs/seeds

Runs `rftt demo` once for each seed, one after the other. It prints for each whether reinforced is above
warmed-up above prompted, whether the intervals of prompted and reinforced are apart, and whether 16
rollouts are above one sample; and then the table of the README, the range of accuracies by model: one
sample, a vote of 16 rollouts, one greedy sample. Finished seeds in the output folder are not run again.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import machine

ARMS = ("prompted", "warmed_up", "reinforced")
RUNS = {"1": "one sample", "16": "vote of 16", "greedy": "greedy"}


def checks(result: dict[str, Any]) -> dict[str, bool]:
    """Return whether the main job shows what it should."""
    intervals = result["intervals"]
    return {
        "ordered": all(
            result["prompted"][run] < result["warmed_up"][run] < result["reinforced"][run]
            for run in ("1", "16")
        ),
        "apart": all(intervals["prompted"][r][1] < intervals["reinforced"][r][0] for r in ("1", "16")),
        "rollouts_help": all(result[arm]["1"] < result[arm]["16"] for arm in ARMS),
    }


def table(results: dict[int, dict[str, Any]]) -> str:
    """Return the range of accuracies over the seeds, by model and run, as a table in Markdown."""
    lines = ["| model | " + " | ".join(RUNS.values()) + " |", "| --- | " + "--- | " * len(RUNS)]
    for arm in ARMS:
        cells = []
        for run in RUNS:
            percent = [100 * result[arm][run] for result in results.values()]
            cells.append(f"{min(percent):.1f}-{max(percent):.1f}%")
        lines.append(f"| {arm.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the seeds that are not finished, and print what all of them gave."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--output", type=Path, default=Path("runs/seeds"))
    arguments = parser.parse_args()
    results = {}
    for seed in arguments.seeds:
        folder = arguments.output / str(seed)
        finished = folder / "result.json"
        if not finished.exists():
            demo = [sys.executable, "-m", "rftt", "demo"]
            options = ["--output", str(folder), "--seed", str(seed)]
            subprocess.run(demo + options, check=True, stdout=subprocess.DEVNULL)
        result = json.loads(finished.read_text())
        results[seed] = result | checks(result)
        print(f"seed {seed}: {results[seed]}", flush=True)
    print(table(results))
    print(json.dumps({"machine": machine(), "seeds": results}))


if __name__ == "__main__":
    main()
