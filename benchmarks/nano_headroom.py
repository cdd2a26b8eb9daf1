"""What choosing well among nano's functions is worth: python benchmarks/nano_headroom.py

Held-out problems, prompts only, sampled at temperature 1: one sample going step by step; all
functions, by a vote of 16 rollouts of tree search and by the best of them (pass@16). The last line is
JSON.
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
    Searcher,
    TransformersSampler,
    arithmetic_problems,
    load_nano,
    majority,
    run_search,
)  # fmt: skip
from rftt.tuning.evaluation import wilson

FIRST_FIVE = ("clarify", "analysis", "subquestion", "next_step", "direct_answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.monotonic()
    model, tokenizer = load_nano()
    sampler = TransformersSampler(model, tokenizer)
    problems = arithmetic_problems(arguments.problems, "heldout", seed=arguments.seed)
    search = MCTS(openers="sampled", width=4, parallel=4)
    runs: dict[str, tuple[tuple[str, ...], Searcher, int]] = {
        "step_by_step": (("next_step",), BestOfN(1), 1),
        "step_by_step_16": (("next_step",), BestOfN(16), 16),
        "all_functions_16": (FIRST_FIVE, search, 16),
    }
    figures: dict[str, object] = {"problems": len(problems)}
    for name, (functions, searcher, rollouts) in runs.items():
        policy = PromptedPolicy(sampler, tokenizer, Grammar.default(), functions=functions)
        trees = run_search(
            problems, searcher, policy, MathVerifier(), budget=Budget(rollouts=rollouts),
            seed=arguments.seed, max_tokens=256,
        )  # fmt: skip
        voted = sum(majority(tree) == tree.problem.answer for tree in trees)
        passed = sum(tree.total[0] > 0 for tree in trees)
        for label, count in (("vote", voted), ("pass", passed)):
            low, high = wilson(count, len(trees))
            share = count / len(trees)
            print(
                f"{name:18} {label}@{rollouts:<3} {100 * share:5.1f}% ({100 * low:.1f}-{100 * high:.1f})"
            )
            figures[f"{name}_{label}"] = round(share, 4)
    figures["seconds"] = round(time.monotonic() - start, 1)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
