"""The main job for several seeds: python benchmarks/demo_seeds.py --seeds 1 2 3 4 5 --output runs/seeds

Runs `rftt demo` once for each seed, one after the other, and says for each whether reinforced is above
warmed-up above prompted, whether the intervals of prompted and reinforced are apart, and whether 16
rollouts are above one sample. Finished seeds in the output folder are not run again. The last line is
JSON.
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


def checks(result: dict[str, Any]) -> dict[str, bool]:
    """What the main job should show."""
    intervals = result["intervals"]
    return {
        "ordered": all(
            result["prompted"][run] < result["warmed_up"][run] < result["reinforced"][run]
            for run in ("1", "16")
        ),
        "apart": all(intervals["prompted"][r][1] < intervals["reinforced"][r][0] for r in ("1", "16")),
        "rollouts_help": all(result[arm]["1"] < result[arm]["16"] for arm in ARMS),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--output", type=Path, default=Path("runs/seeds"))
    arguments = parser.parse_args()
    results = {}
    for seed in arguments.seeds:
        folder = arguments.output / str(seed)
        finished = folder / "result.json"
        if not finished.exists():
            command = [
                sys.executable,
                "-m",
                "rftt",
                "demo",
                "--output",
                str(folder),
                "--seed",
                str(seed),
            ]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        result = json.loads(finished.read_text())
        results[seed] = result | checks(result)
        print(f"seed {seed}: {results[seed]}", flush=True)
    print(json.dumps({"machine": machine(), "seeds": results}))


if __name__ == "__main__":
    main()
