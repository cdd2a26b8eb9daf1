"""What each learner and credit makes of the warmed-up nano: python benchmarks/learning.py

For each seed nano is searched and fine-tuned as in `rftt demo`. From that model each arm learns, until
it has sampled a given number of tokens. Held-out accuracy by one sample at the training temperature and
by one greedy sample, with 95% intervals; the use of `verify` and `refine` in 100 solutions. Finished
runs in the output folder are not repeated; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from machine import machine

from rftt import (
    MCTS,
    BestOfN,
    Budget,
    FunctionalPolicy,
    Learner,
    MathVerifier,
    SearchConfig,
    Searcher,
    SearchTree,
    TreeRollouts,
    Tuner,
    evaluate,
)  # fmt: skip
from rftt.demo.loop import Demo
from rftt.demo.models import functional_policy
from rftt.demo.settings import DemoSettings
from rftt.evaluation.intervals import wilson
from rftt.files import atomic_write
from rftt.learners.credit.outcome import group_outcome
from rftt.learners.credit.paths import PathCredit
from rftt.learners.credit.policy_weighted import policy_weighted
from rftt.learners.credit.step_values import step_values
from rftt.learners.critic import HeadCritic
from rftt.learners.loss.kl import KLPenalty
from rftt.learners.ppo import PPO
from rftt.learners.presets import GRPO, RLOO, ReinforcePlusPlus, ReinforcePlusPlusBaseline
from rftt.learners.reference import Reference, frozen_reference
from rftt.learners.rollouts.judged import judged_rollouts
from rftt.policies.loading import load_model
from rftt.problems.arithmetic import arithmetic_problems
from rftt.training.loader import BatchLoader

PROBLEMS_PER_UPDATE = 16
ROLLOUTS = 16
TREE = MCTS(expansion="sample", width=8, simulations_per_round=16, exploration=1.0)


def shared_once(trees: Sequence[SearchTree]) -> list[list[PathCredit]]:
    """The credit of the first version: each token of a tree counts once, with the mean score of the
    rollouts through it less the mean of the tree."""
    credits = []
    for rollouts in judged_rollouts(trees):
        paths: list[PathCredit] = []
        seen: set[int] = set()
        mean = sum(r.score for r in rollouts) / max(1, len(rollouts))
        for r in rollouts:
            advantages, weights = [], []
            for node in r.path:
                advantages.append((r.tree.value(node) or 0.0) - mean)
                weights.append(float(node not in seen))
                seen.add(node)
            paths.append(PathCredit(r.end, float(r.count), tuple(advantages), tuple(weights)))
        credits.append(paths)
    return credits


def make_ppo(policy: FunctionalPolicy, reference: Reference, *, kl_coef: float) -> Learner:
    """A value head on the policy's body; one epoch, as the others have."""
    critic = HeadCritic(policy.sampler.model.config.hidden_size)  # type: ignore[attr-defined]
    return PPO(
        policy, critic, reference, kl=KLPenalty(kl_coef, "k1"), epochs=1, critic_learning_rate=1e-3,
        critic_warmup=3,
    )  # fmt: skip


Make = Callable[..., Learner]
BASELINE = ReinforcePlusPlusBaseline
ARMS: dict[str, tuple[Make, Searcher]] = {
    "reinforce_pp": (ReinforcePlusPlus, BestOfN()),
    "grpo": (GRPO, BestOfN()),
    "rloo": (RLOO, BestOfN()),
    "ppo": (make_ppo, BestOfN()),
    "baseline": (BASELINE, BestOfN()),
    "mcts_old_credit": (partial(BASELINE, credit=shared_once), TREE),
    "mcts_outcome": (partial(BASELINE, credit=partial(group_outcome, baseline="mean")), TREE),
    "mcts_policy_weighted": (partial(BASELINE, credit=policy_weighted), TREE),
    "mcts_treerl": (partial(BASELINE, credit=partial(step_values, kind="treerl")), TREE),
}
"""For each arm the learner and the search; those named after a search differ in credit alone."""


class StopAtTokens(lightning.Callback):
    """Ends training once so many tokens have been sampled."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.tokens = 0

    def count(self, trees: Sequence[SearchTree]) -> None:
        self.tokens += sum(tree.tokens for tree in trees)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        trainer.should_stop = self.tokens >= self.most


def warmed_up(output: Path, settings: DemoSettings) -> Path:
    """Return the folder of the warmed-up model of a seed."""
    demo = Demo(output, settings)
    if not (output / "warmed_up").exists():
        demo.fine_tune(demo.search())
    return output / "warmed_up"


def measure(
    settings: DemoSettings, policy: Callable[[float], FunctionalPolicy], heldout: int
) -> dict[str, Any]:
    """Return held-out counts of right answers, and the use of functions in 100 solutions."""
    problems = arithmetic_problems(heldout, "heldout", seed=settings.seed)
    verifier, result = MathVerifier(), dict[str, Any](problems=heldout)
    for name, temperature in (("one", 1.0), ("greedy", 0.0)):
        config = SearchConfig(Budget(rollouts=1), seed=settings.seed, max_tokens=settings.max_tokens)
        found = evaluate(problems, BestOfN(), policy(temperature), verifier, config)
        result[name] = sum(found.marks)
        if name == "one":
            result |= {f: 100 * found.functions.get(f, 0) / heldout for f in ("verify", "refine")}
    return result


def learn(
    folder: Path, model_folder: Path, settings: DemoSettings, arm: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Run one arm from the warmed-up model, and measure it."""
    start = time.monotonic()
    model, tokenizer = load_model(model_folder)
    policy = functional_policy(settings, model, tokenizer, 1.0)
    make, searcher = ARMS[arm]
    reference: Reference = frozen_reference(model, tokenizer, policy.tokens)
    learner = make(policy, reference, kl_coef=options.kl_coef)
    stop = StopAtTokens(options.tokens)
    tuner = Tuner(
        model, learner, learning_rate=options.learning_rate, warmup_steps=3, on_trees=stop.count,
        tree_rollouts=TreeRollouts(policy, searcher, MathVerifier(), settings.search(ROLLOUTS)),
        seed=settings.seed,
    )  # fmt: skip
    problems = arithmetic_problems(PROBLEMS_PER_UPDATE * 400, "reinforce", seed=settings.seed)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="auto", devices=1, callbacks=[stop], enable_checkpointing=False,
        logger=CSVLogger(folder, name=arm, version=""), enable_model_summary=False,
        enable_progress_bar=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(tuner, BatchLoader(problems, PROBLEMS_PER_UPDATE, shuffle=False))
    seconds = time.monotonic() - start
    policy_at = partial(functional_policy, settings, model, tokenizer)
    figures = measure(settings, policy_at, options.heldout)
    return figures | {"updates": tuner.updates, "tokens": stop.tokens, "seconds": round(seconds, 1)}


def pooled(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return accuracies over all seeds in percent, with 95% intervals."""
    problems = sum(r["problems"] for r in results)
    summary: dict[str, Any] = {"seeds": len(results), "problems": problems}
    for name in ("one", "greedy"):
        count = sum(r[name] for r in results)
        low, high = wilson(count, problems)
        summary[name] = [round(100 * x, 1) for x in (count / problems, low, high)]
    for name in ("verify", "refine", "updates", "tokens", "seconds"):
        if name in results[0]:
            summary[name] = round(sum(r[name] for r in results) / len(results), 1)
    return summary


def main() -> None:
    """Run what is not finished, and print what all of it gave."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/learning"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[31, 32, 33])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--tokens", type=int, default=400_000, help="sampled by each run")
    parser.add_argument("--heldout", type=int, default=500)
    parser.add_argument("--kl-coef", type=float, default=0.02)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    torch.set_float32_matmul_precision("high")
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        settings = DemoSettings(seed=seed)
        folder = options.output / str(seed)
        model_folder = warmed_up(folder / "warm_up", settings)
        for arm in ("warmed_up", *options.arms):
            path = folder / f"{arm}.json"
            if not path.exists():
                if arm == "warmed_up":
                    model, tokenizer = load_model(model_folder)
                    policy = partial(functional_policy, settings, model, tokenizer)
                    figures = measure(settings, policy, options.heldout)
                else:
                    figures = learn(folder, model_folder, settings, arm, options)
                with atomic_write(path) as partial_path:
                    partial_path.write_text(json.dumps(figures))
            results.setdefault(arm, []).append(json.loads(path.read_text()))
            print(seed, arm, results[arm][-1], flush=True)
    arguments = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    summary = {arm: pooled(some) for arm, some in results.items()}
    print(json.dumps({"machine": machine(), "arguments": arguments, **summary}))


if __name__ == "__main__":
    main()
