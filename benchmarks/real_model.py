"""The road of examples/real_model.py on a real model, measured:

    python benchmarks/real_model.py --model FOLDER --data ASDIV=asdiv.jsonl --output runs/road

Takes the example's arguments. Prints the held-out accuracy of the model as it came (few-shot, asked in
words) and after each stage: one greedy sample, one sample and a vote of --votes rollouts at
temperature 0.7, with 95% intervals; and seconds, sampled tokens and peak memory of each stage. With
--votes 0 only the greedy sample is measured; --stages 0 only the model as it came. A run that was killed
goes on where it was; seconds and memory are of all its attempts. The last line is JSON.
"""

from __future__ import annotations

import csv
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

from machine import machine

import rftt
from rftt.evaluation.results import Evaluation
from rftt.policies.prompted import PromptedPolicy
from rftt.search.engine.progress import progress

# The example of the same name, not this file, which is `__main__`.
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from real_model import STAGES, VERIFIER, Road, argument_parser


class MeasuredRoad(Road):
    """The road, which writes down what each stage took."""

    def go(self, stage: Callable[[], tuple[Any, Any]]) -> None:
        start = time.monotonic()
        try:
            super().go(stage)
        finally:
            path = self.output / f"{stage.__name__}.cost.json"
            before = json.loads(path.read_text()) if path.exists() else {"seconds": 0, "peak_gb": 0}
            peak = getrusage(RUSAGE_SELF).ru_maxrss / 1e6
            cost = {
                "seconds": round(before["seconds"] + time.monotonic() - start),
                "peak_gb": round(max(before["peak_gb"], peak), 2),
            }
            path.write_text(json.dumps(cost))

    def costs(self) -> dict[str, dict[str, float]]:
        """Return seconds, peak memory in GB and sampled tokens by stage."""
        found = {name: json.loads((self.output / f"{name}.cost.json").read_text()) for name in STAGES}
        rounds = sorted(self.output.glob("iterate_rounds/round_*/round.json"))
        found["iterate"]["rounds"] = [json.loads(path.read_text())["round"] for path in rounds]
        found["iterate"]["tokens"] = sum(one["tokens"] for one in found["iterate"]["rounds"])
        with (self.output / "metrics" / "reinforce" / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row.get("sampled_tokens")]
        found["reinforce"]["tokens"] = round(sum(float(row["sampled_tokens"]) for row in rows))
        return found

    def measure(self, name: str, rollouts: int) -> dict[str, Any]:
        """Return the held-out accuracies of a stage's model, or of the one that came."""
        arms = {"greedy": (1, 0.0)} | ({"vote": (rollouts, 0.7)} if rollouts else {})
        figures: dict[str, Any] = {}
        for arm, (number, temperature) in arms.items():
            policy = self.policy(name, temperature)
            label = f"{name}, {arm}"
            with progress(len(self.heldout) * number, label) as on_completions:
                found = rftt.evaluate(
                    self.heldout, rftt.BestOfN(), policy, VERIFIER, self.config(number),
                    directory=self.output / f"evaluation_{name}_{arm}", on_completions=on_completions,
                )  # fmt: skip
            figures[arm] = shown(found) | {"tokens": found.tokens}
            if number > 1:
                for what, k in (("one_sample", 1), ("some_right", number)):
                    estimate = found.pass_at(k)
                    figures[what] = as_percent(estimate.value, (estimate.low, estimate.high))
            print(name, arm, figures[arm], flush=True)
        return figures

    def policy(self, name: str, temperature: float) -> rftt.FunctionalPolicy | PromptedPolicy:
        if name == "as it came":
            policy: PromptedPolicy = self.prompted(temperature=temperature)
            return policy
        return rftt.load_policy(self.output / name, **self.sampling | {"temperature": temperature})


def shown(found: Evaluation) -> dict[str, Any]:
    """Return accuracy and interval in percent, and the share of problems with an answer."""
    answered = sum(result.answer is not None for result in found.results) / len(found.results)
    return as_percent(found.accuracy, found.interval) | {"answered": round(100 * answered, 1)}


def as_percent(value: float, interval: tuple[float, float]) -> dict[str, Any]:
    return {"accuracy": round(100 * value, 1), "interval": [round(100 * end, 1) for end in interval]}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--votes", type=int, default=16, help="rollouts of a vote")
    parser.add_argument("--stages", type=int, default=3, help="how many stages to take")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    road = MeasuredRoad(arguments)
    stages = STAGES[: arguments.stages]
    road.run(stages)
    result: dict[str, Any] = {"model": Path(arguments.model).name, "problems": len(road.heldout)}
    result["accuracy"] = {name: road.measure(name, arguments.votes) for name in ("as it came", *stages)}
    if len(stages) == len(STAGES):
        result["stages"] = road.costs()
    print(json.dumps(result | {"machine": machine()}))


if __name__ == "__main__":
    main()
