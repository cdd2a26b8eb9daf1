"""Held-out accuracy of the demo's models, each kept in a file once it is known."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import attrs
import torch
from attrs import frozen
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.demo.settings import STYLES, DemoSettings
from rftt.interfaces import Policy
from rftt.nano.checkpoint import load_nano
from rftt.policies.functional import FunctionalPolicy
from rftt.policies.loading import load_model
from rftt.policies.prompted import PromptedPolicy
from rftt.policies.transformers_sampler import TransformersSampler
from rftt.problems.arithmetic import arithmetic_problems
from rftt.search.best_of_n import BestOfN
from rftt.search.progress import progress
from rftt.search.storage import save_trees, whole
from rftt.tokens.functional import FunctionalTokens
from rftt.tokens.grammar import Grammar
from rftt.tuning.evaluation import Evaluation, evaluate
from rftt.verifiers.math import MathVerifier

_SHOWN: Final = 50
"""Trees of an evaluation that are kept."""


@frozen
class Measured:
    """Evaluations of one model by run, and how long they took."""

    runs: dict[str, Evaluation]
    seconds: float


def measure(output: Path, settings: DemoSettings, name: str) -> Measured:
    """Accuracy of ``prompted``, or of the model in the folder ``name``: with one sample, with many
    rollouts, and greedily. What was measured before is read from its file."""
    path = _file(output, name)
    if path.exists():
        return _measured_from_json(json.loads(path.read_text()))
    path.parent.mkdir(exist_ok=True)
    policy = _policy(output, settings, name)
    problems = arithmetic_problems(settings.heldout, "heldout", seed=settings.seed)
    many, start = str(settings.rollouts), time.monotonic()
    runs = {}
    for run, searcher, temperature, rollouts in (
        ("1", BestOfN(1), settings.temperature, 1),
        (many, settings.answer_searcher, settings.temperature, settings.rollouts),
        ("greedy", BestOfN(1), 0.0, 1),
    ):
        with progress(len(problems) * rollouts, f"{name}, {run}") as on_round:
            runs[run], trees = evaluate(
                problems, searcher, policy(temperature), MathVerifier(),
                rollouts=rollouts, seed=settings.seed, max_tokens=settings.max_tokens,
                on_round=on_round,
            )  # fmt: skip
        if run == many:
            save_trees(path.with_name(f"{name}_trees.jsonl"), trees[:_SHOWN])
    measured = Measured(runs, time.monotonic() - start)
    with whole(path) as half:
        half.write_text(json.dumps(attrs.asdict(measured)))
    return measured


@contextmanager
def measured_beside(output: Path, settings: DemoSettings, name: str) -> Iterator[None]:
    """Measure a model in a process of its own while this one goes on, with half the threads each: two
    small models side by side make better use of cores than one after the other.

    Raises ``RuntimeError`` if that process fails.
    """
    if _file(output, name).exists():
        yield
        return
    threads = torch.get_num_threads()
    half = max(1, threads // 2)
    process = get_context("spawn").Process(target=_measure_with, args=(half, output, settings, name))
    process.start()
    torch.set_num_threads(half)
    try:
        yield
        process.join()
    finally:
        process.kill()
        torch.set_num_threads(threads)
    if process.exitcode:
        raise RuntimeError(f"the evaluation of {name} failed; what it said stands above")


def _measure_with(threads: int, output: Path, settings: DemoSettings, name: str) -> None:
    torch.set_num_threads(threads)
    measure(output, settings, name)


def prompted(functions: Collection[str], temperature: float) -> PromptedPolicy:
    """nano, asked for these functions in words."""
    model, tokenizer = load_nano()
    sampler = TransformersSampler(model, tokenizer, temperature=temperature, batch_size=1024)
    return PromptedPolicy(sampler, tokenizer, Grammar.default(), functions=functions)


def functional(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, temperature: float
) -> FunctionalPolicy:
    """A model that has the functional tokens."""
    sampler = TransformersSampler(model, tokenizer, temperature=temperature, batch_size=1024)
    return FunctionalPolicy(sampler, tokenizer, FunctionalTokens.find(tokenizer, Grammar.default()))


def _policy(output: Path, settings: DemoSettings, name: str) -> Callable[[float], Policy]:
    if name == "prompted":
        return partial(prompted, STYLES[_stronger_style(output, settings)])
    return partial(functional, *load_model(output / name))


def _stronger_style(output: Path, settings: DemoSettings) -> str:
    """The way of prompting that is right more often with one sample."""
    problems = arithmetic_problems(settings.heldout, "heldout", seed=settings.seed)
    accuracies = {}
    for style, functions in STYLES.items():
        result, _ = evaluate(
            problems, BestOfN(1), prompted(functions, settings.temperature), MathVerifier(),
            rollouts=1, seed=settings.seed, max_tokens=settings.max_tokens,
        )  # fmt: skip
        accuracies[style] = result.accuracy
    (output / "prompted_styles.json").write_text(json.dumps(accuracies))
    return max(accuracies, key=lambda style: accuracies[style])


def _file(output: Path, name: str) -> Path:
    return output / "evaluation" / f"{name}.json"


def _measured_from_json(data: dict[str, dict[str, dict[str, object]]]) -> Measured:
    runs = {
        run: Evaluation(**v | {"marks": tuple(v["marks"])})  # type: ignore[arg-type]
        for run, v in data["runs"].items()
    }
    return Measured(runs, data["seconds"])  # type: ignore[arg-type]
