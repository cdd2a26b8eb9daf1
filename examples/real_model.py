"""The road from a checkpoint to a better one, for any causal model and any problem file:

    python examples/real_model.py --model FOLDER --data ASDIV=asdiv.jsonl --output runs/road

Prompted search, warm-up, expert iteration, reinforcement; then the model is loaded again and answers
problems that were held out, every fifth one. A run that was killed and is started again with the same
arguments goes on where it was. docs/bring-a-model.md explains each stage.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from peft import LoraConfig, get_peft_model

import rftt
from rftt.files import atomic_write
from rftt.learners.presets import RLOO
from rftt.learners.reference import frozen_reference
from rftt.policies.loading import load_model
from rftt.problems.duplicates import contamination
from rftt.problems.fields import Fields
from rftt.problems.sets import SETS
from rftt.problems.splits import hold_out_every
from rftt.search.engine.progress import progress
from rftt.tokens.embeddings import initialize_token_embeddings, trainable_token_indices
from rftt.training.expert_iteration import ExpertIteration
from rftt.training.loader import BatchLoader

EXAMPLES = [
    ("Sam has 3 apples and buys 4 more. How many has he now?", ["3 + 4 = 7 apples."], 7),
    (
        "A book has 90 pages. Tim reads 20 a day for 3 days. How many are left?",
        ["He reads 20 * 3 = 60 pages.", "90 - 60 = 30 pages are left."],
        30,
    ),
    ("Each of 6 boxes holds 5 pens. How many pens are there?", ["6 * 5 = 30 pens."], 30),
    ("Anna shares 24 sweets among 4 friends. How many has each?", ["24 / 4 = 6 sweets."], 6),
]
FUNCTIONS = ("clarify", "analysis", "subquestion", "next_step", "direct_answer")
STAGES = ("warm_up", "iterate", "reinforce")
GRAMMAR, VERIFIER = rftt.Grammar.default(), rftt.MathVerifier()


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=form)
    add = parser.add_argument
    add("--model", required=True, help="folder or name of a causal language model")
    add("--data", nargs="+", required=True, metavar="[SET=]FILE", help=f"sets: {', '.join(SETS)}")
    add("--output", type=Path, required=True)
    add("--functions", nargs="+", default=FUNCTIONS, help="that are asked for by prompts")
    add("--dtype", default="float32", help="of the model that is asked by prompts, such as bfloat16")
    add("--lora", action="store_true", help="tune an adapter in each stage, and merge it")
    add("--precision", default="32-true", help="of training, such as bf16-mixed")
    add("--rollouts", type=int, default=16, help="of each problem")
    add("--warm-up-problems", type=int, default=256)
    add("--problems-per-round", type=int, default=256, help="of expert iteration")
    add("--max-rounds", type=int, default=10, help="of expert iteration")
    add("--updates", type=int, default=20, help="of reinforcement, 8 problems each")
    add("--max-tokens", type=int, default=96, help="of one solution")
    add("--batch-size", type=int, default=64, help="requests that are sampled side by side")
    add("--heldout", type=int, default=200, help="held-out problems to answer")
    return parser


def split(data: list[str]) -> tuple[list[rftt.Problem], list[rftt.Problem]]:
    """Return the problems to train on and those held out, without the former's copies of the latter."""
    train, heldout = [], []
    for entry in data:
        name, _, file = entry.rpartition("=")
        rest, every_fifth = hold_out_every(rftt.load_problems(file, SETS[name] if name else Fields()))
        train += rest
        heldout += every_fifth
    copies = {pair.first.id for pair in contamination(train, heldout)}
    Random(0).shuffle(train)
    Random(0).shuffle(heldout)
    return [problem for problem in train if problem.id not in copies], heldout


class Road:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.output = arguments, arguments.output
        self.train, heldout = split(arguments.data)
        self.heldout = heldout[: arguments.heldout]
        self.sampling = {"temperature": 1.0, "batch_size": arguments.batch_size}

    def run(self, stages: Sequence[str] = STAGES) -> None:
        for stage in stages:
            if not (self.output / stage).exists():
                self.go(getattr(self, stage))

    def answer(self) -> None:
        policy = rftt.load_policy(self.output / "reinforce", **self.sampling | {"temperature": 0.0})
        found = rftt.evaluate(self.heldout, rftt.BestOfN(), policy, VERIFIER, self.config(1))
        print(f"held out, one greedy sample: {found.accuracy:.1%}, 95% interval {found.interval}")

    def go(self, stage: Callable[[], tuple[Any, Any]]) -> None:
        lightning.seed_everything(0, verbose=False)
        model, tokenizer = stage()
        with atomic_write(self.output / stage.__name__) as folder:
            tokenizer.save_pretrained(folder)
            (model.merge_and_unload() if self.arguments.lora else model).save_pretrained(folder)

    def warm_up(self) -> tuple[Any, Any]:
        """Search by prompts, annotate what was found, and teach the model the functional tokens."""
        problems, rollouts = self.train[: self.arguments.warm_up_problems], self.arguments.rollouts
        policy = self.prompted()
        searcher = rftt.MCTS(expansion="sample", width=8, simulations_per_round=8)
        with progress(len(problems) * rollouts, "prompted search") as on_completions:
            trees = rftt.run_search(
                problems, searcher, policy, VERIFIER, self.config(rollouts),
                directory=self.output / "warm_up_search", on_completions=on_completions,
            )  # fmt: skip
        (model, _), tokenizer = load_model(self.arguments.model), policy.tokenizer
        tokens = rftt.FunctionalTokens.add(tokenizer, GRAMMAR)
        solutions = rftt.WarmUp(policy, tokens).annotate(trees)
        solutions.to_json(self.output / "warm_up.jsonl")
        initialize_token_embeddings(model, tokenizer, tokens)
        model, policy = self.functional(model, tokenizer)
        tuner = rftt.Tuner(model, rftt.SupervisedLearner(policy), learning_rate=1e-4)
        self.fit("warm_up", tuner, BatchLoader(solutions.to_list(), 8, epochs=3))
        return model, tokenizer

    def iterate(self) -> tuple[Any, Any]:
        """Search, keep right paths, fine-tune, repeat, until the model is right often enough."""
        model, policy = self.functional(*load_model(self.output / "warm_up"), temperature=0.7)
        if self.arguments.precision.startswith("bf16"):
            # A copy that follows the model's weights searches in half the time.
            copied = load_model(self.output / "warm_up", dtype=torch.bfloat16)
            _, policy = self.functional(*copied, temperature=0.7)
        rounds = ExpertIteration(
            policy, rftt.BestOfN(), VERIFIER, self.config(self.arguments.rollouts),
            problems_per_round=self.arguments.problems_per_round,
            max_rounds=self.arguments.max_rounds, epochs=3, batch_size=8, trainer=self.trainer,
        ).run(model, self.train, self.output / "iterate_rounds", show_progress=True)  # fmt: skip
        print(*rounds, sep="\n")
        return model, policy.tokenizer

    def reinforce(self) -> tuple[Any, Any]:
        """Learn from right and wrong rollouts of the same problem."""
        model, policy = self.functional(*load_model(self.output / "iterate"))
        learner = RLOO(policy, frozen_reference(model, policy.tokenizer, policy.tokens), kl_coef=0.02)
        config = self.config(self.arguments.rollouts)
        rollouts = rftt.TreeRollouts(policy, rftt.BestOfN(), VERIFIER, config, show_progress=True)
        tuner = rftt.Tuner(model, learner, tree_rollouts=rollouts, learning_rate=2e-6, warmup_steps=3)
        self.fit("reinforce", tuner, BatchLoader(self.train[-8 * self.arguments.updates :], 8))
        return model, policy.tokenizer

    def config(self, rollouts: int) -> rftt.SearchConfig:
        limit = self.arguments.max_tokens
        return rftt.SearchConfig(rftt.Budget(rollouts=rollouts), max_depth=8, max_tokens=limit)

    def prompted(self, **sampling: Any) -> Any:
        """Return the model as it came, asked for each step in words."""
        examples = [
            (question, [*(("next_step", s) for s in steps), ("direct_answer", f"\\boxed{{{answer}}}")])
            for question, steps, answer in EXAMPLES
        ]
        return rftt.load_policy(
            self.arguments.model, prompted=True, functions=self.arguments.functions, choice="model",
            examples=examples, dtype=getattr(torch, self.arguments.dtype), **self.sampling | sampling,
        )  # fmt: skip

    def functional(
        self, model: Any, tokenizer: Any, **sampling: Any
    ) -> tuple[Any, rftt.FunctionalPolicy]:
        """Return what is tuned, the model or an adapter over it, and the policy that samples from it."""
        tokens = rftt.FunctionalTokens.find(tokenizer, GRAMMAR)
        if self.arguments.lora:
            rows = trainable_token_indices(model, tokens)
            config = LoraConfig(r=16, target_modules="all-linear", trainable_token_indices=rows)
            model = get_peft_model(model, config)
        sampler = rftt.TransformersSampler(model, tokenizer, **self.sampling | sampling)
        return model, rftt.FunctionalPolicy(sampler, tokenizer, tokens)

    def fit(self, name: str, tuner: rftt.Tuner, loader: BatchLoader[Any]) -> None:
        folder = self.output / f"{name}_checkpoints"
        trainer = self.trainer(
            logger=CSVLogger(self.output, name="metrics", version=name), log_every_n_steps=1,
            callbacks=[ModelCheckpoint(folder, save_last=True, every_n_train_steps=10)],
        )  # fmt: skip
        last = folder / "last.ckpt"
        trainer.fit(tuner, loader, ckpt_path=last if last.exists() else None, weights_only=True)

    def trainer(self, **settings: Any) -> lightning.Trainer:
        quiet = {"logger": False, "enable_checkpointing": "callbacks" in settings}
        return lightning.Trainer(
            max_epochs=1, devices=1, precision=self.arguments.precision, enable_model_summary=False,
            **quiet | settings,
        )  # fmt: skip


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    road = Road(argument_parser(__doc__).parse_args())
    road.run()
    road.answer()
