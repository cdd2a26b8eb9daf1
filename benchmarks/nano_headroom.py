"""Measure what choosing well among nano's functions is worth: python benchmarks/nano_headroom.py

Held-out problems, prompts only, sampled at temperature 1: next steps alone, by one sample and by 16; all
functions, by 16 rollouts of tree search. For each, the accuracy of the majority vote and of the best of
the rollouts (pass@16). The search does not see the gold answers. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time

from rftt import (
    MCTS,
    BestOfN,
    Budget,
    Grammar,
    MathVerifier,
    PromptedPolicy,
    SearchConfig,
    Searcher,
    TransformersSampler,
    evaluate,
)  # fmt: skip
from rftt.nano.checkpoint import load_nano
from rftt.problems.arithmetic import arithmetic_problems

FIRST_FIVE = ("clarify", "analysis", "subquestion", "next_step", "direct_answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.monotonic()
    model, tokenizer = load_nano()
    sampler = TransformersSampler(model, tokenizer)
    verifier = MathVerifier()
    problems = arithmetic_problems(arguments.problems, "heldout", seed=arguments.seed)
    search = MCTS(expansion="sample", width=4, simulations_per_round=4)
    runs: dict[str, tuple[tuple[str, ...], Searcher, int]] = {
        "step_by_step": (("next_step",), BestOfN(), 1),
        "step_by_step_16": (("next_step",), BestOfN(), 16),
        "all_functions_16": (FIRST_FIVE, search, 16),
    }
    figures: dict[str, object] = {"problems": len(problems)}
    for name, (functions, searcher, rollouts) in runs.items():
        policy = PromptedPolicy(sampler, tokenizer, Grammar.default(), functions=functions)
        config = SearchConfig(Budget(rollouts=rollouts), seed=arguments.seed, max_tokens=256)
        result = evaluate(problems, searcher, policy, verifier, config)
        for label, found in (("vote", result.chosen()), ("pass", result.coverage())):
            share, low, high = (100 * figure for figure in (found.value, found.low, found.high))
            print(f"{name:18} {label}@{rollouts:<3} {share:5.1f}% ({low:.1f}-{high:.1f})")
            figures[f"{name}_{label}"] = round(found.value, 4)
    figures["seconds"] = round(time.monotonic() - start, 1)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
