"""Reinforcement updates against TRL's GRPOTrainer: python benchmarks/versus_trl.py

    pip install "trl>=1.16,<2"

Both tune the same warmed-up nano by GRPO: 16 problems of 16 samples an update, up to 320 new tokens a
sample, a KL coefficient of 0.1, single precision, two threads. Both stop a sample at the closer of
``<output>``, and the same verifier marks the answers of both. TRL samples with transformers'
``generate`` and a static cache: without that it was never faster and at times took three times as
long; continuous batching took twice as long, and other numbers of samples in a backward pass as long.

They are run by turns, so that a slower time of the machine falls on all; the first update of each turn
is not counted. ``samples_per_s_ratio`` is the rate of ours with independent samples (``BestOfN``, as
TRL's are) over TRL's; ``mcts_samples_per_s_ratio`` is that of rollouts of a tree search, which share
their first steps. ``length`` is the mean length of a solution in tokens; the learning rate is so low
that lengths stay alike. The last line is JSON.

``--model PATH`` takes a model with functional tokens, such as the demo's ``runs/demo/warmed_up``, in the
place of nano warmed up on solutions of its teacher's, which takes a minute.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning
import torch
from attrs import define, field, frozen
from machine import machine
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from warmed_nano import save, warmed_up_nano

from rftt import (
    MCTS,
    BestOfN,
    Budget,
    FunctionalPolicy,
    FunctionalTokens,
    Grammar,
    MathVerifier,
    Problem,
    SearchConfig,
    Searcher,
    SearchTree,
    State,
    Step,
    TransformersSampler,
    TreeRollouts,
    Tuner,
)  # fmt: skip
from rftt.learners.presets import GRPO
from rftt.learners.reference import frozen_reference
from rftt.learners.rollouts.judged import rollout_statistics
from rftt.problems.arithmetic import arithmetic_problems
from rftt.problems.problem import question_line
from rftt.training.loader import BatchLoader

SAMPLES = 16
"""Samples of a problem."""

MAX_TOKENS = 320
KL_COEF = 0.1

LEARNING_RATE = 1e-5
"""So low that lengths stay alike; how long an update takes does not depend on it."""


@define
class Stopwatch:
    """Seconds and mean length of a solution by update, the first one not counted."""

    seconds: list[float] = field(factory=list)
    lengths: list[float] = field(factory=list)
    _last: float | None = None

    def lap(self) -> None:
        """Note that an update has ended."""
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now


@frozen
class Task:
    """What both do: a model and the problems of some updates."""

    folder: Path
    problems: Sequence[Problem]
    problems_per_update: int
    seed: int

    @property
    def samples(self) -> int:
        """Return the samples of an update."""
        return self.problems_per_update * SAMPLES


# -- ours -----------------------------------------------------------------------------------------


class _Laps(lightning.Callback):
    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch

    def on_train_batch_end(self, *_: Any) -> None:
        self.stopwatch.lap()


def ours(task: Task, searcher: Searcher) -> Stopwatch:
    """Tune by the ``GRPO`` preset."""
    stopwatch = Stopwatch()
    model = AutoModelForCausalLM.from_pretrained(task.folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(task.folder)
    tokens = FunctionalTokens.find(tokenizer, Grammar.default())
    sampler = TransformersSampler(model, tokenizer, batch_size=task.samples)
    policy = FunctionalPolicy(sampler, tokenizer, tokens)
    learner = GRPO(policy, frozen_reference(model, tokenizer, tokens), kl_coef=KL_COEF)
    config = SearchConfig(Budget(rollouts=SAMPLES), seed=task.seed, max_tokens=MAX_TOKENS)

    def note(trees: Sequence[SearchTree]) -> None:
        sums = rollout_statistics(trees)
        stopwatch.lengths.append(sums["length_sum"] / sums["judged"])

    tuner = Tuner(
        model, learner, learning_rate=LEARNING_RATE, warmup_steps=0, on_trees=note,
        tree_rollouts=TreeRollouts(policy, searcher, MathVerifier(), config),
    )  # fmt: skip
    lightning.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=False, callbacks=[_Laps(stopwatch)],
    ).fit(tuner, BatchLoader(task.problems, task.problems_per_update, shuffle=False))  # fmt: skip
    return stopwatch


# -- TRL's ----------------------------------------------------------------------------------------


class _TRLLaps(TrainerCallback):  # type: ignore[misc]
    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.stopwatch.lap()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "completions/mean_length" in logs:
            self.stopwatch.lengths.append(float(logs["completions/mean_length"]))


def trls(task: Task, output: Path, samples_per_pass: int) -> Stopwatch:
    """Tune by TRL's ``GRPOTrainer``, by the same objective."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    stopwatch = Stopwatch()
    model = AutoModelForCausalLM.from_pretrained(task.folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(task.folder)
    tokens = FunctionalTokens.find(tokenizer, Grammar.default())
    end = tokens.closers["output"]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    problems = {question_line(problem): problem for problem in task.problems}
    verifier = MathVerifier()

    def reward(
        prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_: Any
    ) -> list[float | None]:
        states = [
            State(problems[prompt], (Step("output", text, (), (), (), terminal=True),))
            for prompt, text in zip(prompts, completions, strict=True)
        ]
        # What the limit cut is no failure, as it is not in ours.
        return [
            verdict.score if ids[-1] == end else None
            for verdict, ids in zip(verifier.judge(states), completion_ids, strict=True)
        ]

    arguments = GRPOConfig(
        output_dir=str(output), use_cpu=True, bf16=False, gradient_checkpointing=False,
        num_generations=SAMPLES, max_completion_length=MAX_TOKENS, temperature=1.0,
        cache_implementation="static",
        per_device_train_batch_size=samples_per_pass,
        gradient_accumulation_steps=task.samples // samples_per_pass,
        loss_type="grpo", beta=KL_COEF, use_bias_correction_kl=False,
        learning_rate=LEARNING_RATE, lr_scheduler_type="constant", max_grad_norm=1.0,
        num_train_epochs=1, shuffle_dataset=False, seed=task.seed, report_to=[],
        save_strategy="no", logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=model, reward_funcs=reward, args=arguments, processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": list(problems)}), callbacks=[_TRLLaps(stopwatch)],
    )  # fmt: skip
    trainer.train()
    return stopwatch


# -- both -----------------------------------------------------------------------------------------


def main() -> None:
    """Run both by turns, and print what they gave."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="default: nano, warmed up here")
    parser.add_argument("--updates", type=int, default=3, help="of a turn, that are counted")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--problems", type=int, default=16, help="of an update")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trl-samples-per-pass", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if find_spec("trl") is None:
        raise SystemExit('TRL is missing: pip install "trl>=1.16,<2"')
    torch.set_num_threads(chosen.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    problems = arithmetic_problems(chosen.problems * (chosen.updates + 1), "reinforce", seed=chosen.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.model or Path(scratch) / "warmed_up"
        if chosen.model is None:
            save(*warmed_up_nano(seed=chosen.seed), folder)
        task = Task(folder, problems, chosen.problems, chosen.seed)
        runs = {
            "trl": lambda: trls(task, Path(scratch) / "trl", chosen.trl_samples_per_pass),
            "ours": lambda: ours(task, BestOfN()),
            "ours_mcts": lambda: ours(
                task, MCTS(expansion="sample", width=8, simulations_per_round=16, exploration=1.0)
            ),
        }
        found: dict[str, list[Stopwatch]] = {name: [] for name in runs}
        for turn in range(chosen.turns):
            for name, run in runs.items():
                found[name].append(stopwatch := run())
                print(f"turn {turn}, {name}: {stopwatch}", flush=True)
    print(json.dumps(_summary(found, task.samples) | {"machine": machine()}))


def _summary(found: dict[str, list[Stopwatch]], samples: int) -> dict[str, object]:
    """Return rates, ratios and lengths over all turns."""

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    rates, lengths = {}, {}
    for name, turns in found.items():
        rates[name] = samples / mean([s for turn in turns for s in turn.seconds])
        lengths[name] = mean([length for turn in turns for length in turn.lengths[1:]])
    of_turns = [
        sum(theirs.seconds) / sum(mine.seconds)
        for theirs, mine in zip(found["trl"], found["ours"], strict=True)
    ]
    return {
        "samples_per_s_ratio": round(rates["ours"] / rates["trl"], 2),
        "mcts_samples_per_s_ratio": round(rates["ours_mcts"] / rates["trl"], 2),
        "ratio_by_turn": [round(ratio, 2) for ratio in of_turns],
        "samples_per_s": {name: round(rate, 2) for name, rate in rates.items()},
        "length": {name: round(length, 1) for name, length in lengths.items()},
        "trl_version": version("trl"),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main()
