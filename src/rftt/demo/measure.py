"""Held-out accuracy of the demo's models, each share of it kept in a file once it is known."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
from attrs import frozen
from transformers import AutoModelForCausalLM, AutoTokenizer

from rftt.demo.models import functional_policy, prompted_policy
from rftt.demo.settings import STYLES, DemoSettings
from rftt.evaluation.evaluate import OnTrees, evaluate
from rftt.evaluation.results import Evaluation, evaluation_from_json
from rftt.files import atomic_write
from rftt.interfaces import Policy
from rftt.problems.arithmetic import arithmetic_problems
from rftt.problems.problem import Problem
from rftt.search.engine.progress import progress
from rftt.search.searcher import Searcher
from rftt.search.strategies.best_of_n import BestOfN
from rftt.search.tree.storage import save_trees
from rftt.search.tree.tree import SearchTree
from rftt.verifiers.math import MathVerifier

SHARES: Final = 2
"""Parts that the held-out problems are divided into, so that two processes can share an evaluation."""

_SAVED: Final = 25
"""Trees of a share that are kept."""


@frozen
class Measured:
    """Evaluations of one model, by run, and how many seconds they took."""

    runs: dict[str, Evaluation]
    seconds: float

    @staticmethod
    def merge(shares: Sequence[Measured]) -> Measured:
        """Return the evaluations of all shares together."""
        runs = {
            run: Evaluation(
                results=tuple(result for share in shares for result in share.runs[run].results),
                functions=dict(
                    sum((Counter(share.runs[run].functions) for share in shares), Counter[str]())
                ),
                independent=all(share.runs[run].independent for share in shares),
            )
            for run in shares[0].runs
        }
        return Measured(runs, sum(share.seconds for share in shares))


def measure(output: Path, settings: DemoSettings, name: str) -> Measured:
    """Return the accuracy of ``prompted`` or of the model in the folder ``name``, on all held-out
    problems."""
    return Measured.merge([measure_share(output, settings, name, share) for share in range(SHARES)])


def is_measured(output: Path, name: str, share: int) -> bool:
    """Return whether a share was measured before."""
    return _file(output, name, share).exists()


def measure_share(output: Path, settings: DemoSettings, name: str, share: int) -> Measured:
    """Return the accuracy on a share of the held-out problems: with one sample, with many rollouts, and
    greedily. What was measured before is read from its file."""
    path = _file(output, name, share)
    if path.exists():
        return _from_json(json.loads(path.read_text()))
    path.parent.mkdir(exist_ok=True)
    start = time.monotonic()
    policy = _policy(output, settings, name)
    problems = arithmetic_problems(settings.heldout, "heldout", seed=settings.seed)[share::SHARES]
    many = str(settings.rollouts)

    def save_some(trees: Sequence[SearchTree]) -> None:
        save_trees(path.with_name(f"{path.stem}_trees.jsonl"), trees[:_SAVED])

    runs = {}
    for run, searcher, temperature, rollouts in (
        ("1", BestOfN(), settings.temperature, 1),
        (many, settings.answer_searcher, settings.temperature, settings.rollouts),
        ("greedy", BestOfN(), 0.0, 1),
    ):
        label = f"{name}, {run}, share {share + 1} of {SHARES}"
        runs[run] = _evaluate(
            settings, problems, searcher, policy(temperature), rollouts, label,
            on_trees=save_some if run == many else None,
        )  # fmt: skip
    measured = Measured(runs, time.monotonic() - start)
    with atomic_write(path) as partial_path:
        partial_path.write_text(json.dumps(attrs.asdict(measured)))
    return measured


def _evaluate(
    settings: DemoSettings,
    problems: Sequence[Problem],
    searcher: Searcher,
    policy: Policy,
    rollouts: int,
    label: str,
    on_trees: OnTrees | None = None,
) -> Evaluation:
    with progress(len(problems) * rollouts, label) as on_completions:
        return evaluate(
            problems, searcher, policy, MathVerifier(), settings.search(rollouts),
            on_completions=on_completions, on_trees=on_trees,
        )  # fmt: skip


def _policy(output: Path, settings: DemoSettings, name: str) -> Callable[[float], Policy]:
    """Return the policy of an arm, once it is given a temperature."""
    if name == "prompted":
        return partial(prompted_policy, settings, STYLES[_better_style(output, settings)])
    folder = output / name
    if not folder.exists():
        raise FileNotFoundError(f"model folder {folder} does not exist")
    # Not load_policy: its room would bring adapters and vLLM into a process that needs neither.
    model = AutoModelForCausalLM.from_pretrained(folder)
    return partial(functional_policy, settings, model, AutoTokenizer.from_pretrained(folder))


def _better_style(output: Path, settings: DemoSettings) -> str:
    """Return the way of prompting that is right more often with one sample, on warm-up problems."""
    path = output / "prompted_styles.json"
    if not path.exists():
        problems = arithmetic_problems(settings.warm_up_problems, "warmup", seed=settings.seed)
        accuracies = {}
        for style, functions in STYLES.items():
            policy = prompted_policy(settings, functions, settings.temperature)
            found = _evaluate(settings, problems, BestOfN(), policy, 1, f"prompted {style}")
            accuracies[style] = found.accuracy
        with atomic_write(path) as partial_path:
            partial_path.write_text(json.dumps(accuracies))
    styles: dict[str, float] = json.loads(path.read_text())
    return max(styles, key=lambda style: styles[style])


def _file(output: Path, name: str, share: int) -> Path:
    return output / "evaluation" / f"{name}_{share}.json"


def _from_json(data: dict[str, Any]) -> Measured:
    runs = {run: evaluation_from_json(found) for run, found in data["runs"].items()}
    return Measured(runs, data["seconds"])
