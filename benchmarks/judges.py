"""What tells right solutions of nano from wrong ones, without gold: python benchmarks/judges.py

For each seed nano is warmed up as in `rftt demo`, and answers held-out problems 16 times at the demo's
temperature. An answer is chosen by vote, by how sure the policy was, by `verify` steps that the policy
is made to write after each step, and by a value model that is trained on trees of other problems;
beside them one greedy sample, and how often some sample is right. How often a check says "ok" of right
and of wrong steps is counted, too: a step says what it works out, as in 47*83=3901. Accuracy in percent
with 95% intervals. Finished seeds in the output folder are not repeated; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from learning import TREE, warmed_up
from machine import machine

from rftt import (
    BestOfN,
    FunctionalPolicy,
    Grammar,
    MathVerifier,
    Problem,
    SearchTree,
    State,
    Tuner,
    Verifier,
    majority,
    run_search,
)  # fmt: skip
from rftt.demo.models import functional_policy
from rftt.demo.settings import DemoSettings
from rftt.evaluation.intervals import wilson
from rftt.files import atomic_write
from rftt.learners.value import ValueLearner
from rftt.policies.loading import load_model
from rftt.problems.arithmetic import arithmetic_problems
from rftt.search.answers.voting import best, weighted
from rftt.training.loader import BatchLoader
from rftt.verifiers.generative import AskToVerify, GenerativeVerifier, Words
from rftt.verifiers.value import ValueModel

Weights = Mapping[tuple[str, int], float]
"""A weight for each end of a tree, by problem id and node."""

CLAIM = re.compile(r"\s*(\d+)([-+*])(\d+)=(\d+)")
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": int.__add__, "-": int.__sub__, "*": int.__mul__,
}  # fmt: skip


def is_right(text: str) -> bool | None:
    """Whether what a step works out is right, ``None`` if it works nothing out."""
    found = CLAIM.match(text)
    if found is None:
        return None
    a, operator, b, result = found.groups()
    return OPERATIONS[operator](int(a), int(b)) == int(result)


def value_weights(
    policy: FunctionalPolicy,
    model: Any,
    settings: DemoSettings,
    trees: Sequence[SearchTree],
    number: int,
) -> Weights:
    """Train a value model on trees of other problems, and return what it gives the ends of ``trees``."""
    problems = arithmetic_problems(number, "reinforce", seed=settings.seed)
    found = run_search(problems, TREE, policy, MathVerifier(), settings.search(16))
    by_id = {tree.problem.id: tree for tree in found}
    learner = ValueLearner(policy, ValueModel.of_causal_lm(model, link="logistic"), objective="bce")
    tuner = Tuner(
        model, learner, tree_rollouts=lambda some, _: [by_id[problem.id] for problem in some],
        learning_rate=5e-4, decay=True, total_steps=2 * math.ceil(number / 16),
    )  # fmt: skip
    lightning.Trainer(
        max_epochs=1, accelerator="auto", devices=1, logger=False, enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=False,
    ).fit(tuner, BatchLoader(problems, 16, epochs=2, seed=settings.seed))  # fmt: skip
    return judged(learner.verifier(), trees)


def judged(verifier: Verifier, trees: Sequence[SearchTree]) -> Weights:
    """Return a verifier's score of each end."""
    ends = [(tree, end) for tree in trees for end in dict.fromkeys(tree.ends())]
    verdicts = verifier.judge([tree.state(end) for tree, end in ends])
    return {
        (tree.problem.id, end): verdict.score or 0.0
        for (tree, end), verdict in zip(ends, verdicts, strict=True)
    }


def check_weights(
    policy: FunctionalPolicy, trees: Sequence[SearchTree]
) -> tuple[Weights, dict[str, float]]:
    """Return for each end the worst share of checks that say "ok" of a step on its path, and those
    shares of right and of wrong steps."""
    judge = GenerativeVerifier(
        policy, AskToVerify(Grammar.default()), Words(("ok",), ("not",)), function="verify", samples=4,
        max_tokens=60,
    )  # fmt: skip
    places = [
        (tree, node)
        for tree in trees
        for node, step in enumerate(tree.step)
        if step is not None and step.function == "next_step"
    ]
    verdicts = judge.judge([tree.state(node) for tree, node in places])
    share = {(t.problem.id, n): v.score for (t, n), v in zip(places, verdicts, strict=True)}
    said: dict[bool, list[float]] = {True: [], False: []}
    for tree, node in places:
        step, ok = tree.step[node], share[tree.problem.id, node]
        right = None if step is None else is_right(step.text)
        if right is not None and ok is not None:
            said[right].append(ok)
    weights = {}
    for tree in trees:
        for end in tree.ends():
            path = [share.get((tree.problem.id, node)) for node in _path(tree, end)]
            weights[tree.problem.id, end] = min((ok for ok in path if ok is not None), default=0.0)
    figures = {
        f"ok_of_{name}_steps": 100 * math.fsum(some) / max(1, len(some))
        for name, some in (("right", said[True]), ("wrong", said[False]))
    }
    return weights, figures | {"wrong_steps": 100 * len(said[False]) / sum(map(len, said.values()))}


def _path(tree: SearchTree, node: int) -> list[int]:
    path = []
    while node:
        path.append(node)
        node = tree.parent[node]
    return path


def measure(settings: DemoSettings, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return counts of right answers by each way of choosing, and figures of the checks."""
    model, tokenizer = load_model(folder)
    verifier = MathVerifier()
    problems = arithmetic_problems(options.problems, "heldout", seed=settings.seed)
    asked = [Problem(problem.id, problem.question) for problem in problems]
    gold = {problem.id: problem.answer or "" for problem in problems}

    def sampled(temperature: float, rollouts: int) -> list[SearchTree]:
        policy = functional_policy(settings, model, tokenizer, temperature)
        return run_search(asked, BestOfN(), policy, verifier, settings.search(rollouts))

    def count(trees: Sequence[SearchTree], choose: Callable[[SearchTree], str | None]) -> int:
        chosen = [(tree.problem.id, choose(tree)) for tree in trees]
        return sum(a is not None and verifier.equivalent(gold[i], a) is True for i, a in chosen)

    trees = sampled(settings.temperature, 16)
    policy = functional_policy(settings, model, tokenizer, 1.0)
    checks, figures = check_weights(policy, trees)
    ways = {"checks": checks, "surest": _least_sure_step(trees)}
    if options.value_problems:
        ways["value"] = value_weights(policy, model, settings, trees, options.value_problems)
    result: dict[str, Any] = {
        "greedy": count(sampled(0.0, 1), majority),
        "one": count(sampled(settings.temperature, 1), majority),
        "vote": count(trees, lambda tree: majority(tree, verifier.equivalent)),
        "some": count(trees, lambda tree: _some_right(tree, gold, verifier)),
    }
    for name, of in ways.items():

        def weight(tree: SearchTree, end: int, of: Weights = of) -> float:
            return of[tree.problem.id, end]

        result[f"{name}_best"] = count(trees, lambda t, w=weight: best(t, verifier.equivalent, weight=w))
        result[f"{name}_weighted_vote"] = count(
            trees, lambda t, w=weight: weighted(t, w, verifier.equivalent)
        )
    return {"problems": len(problems), "right": result, **figures}


def _least_sure_step(trees: Sequence[SearchTree]) -> Weights:
    """The probability of the least likely step on the path to an end."""

    def weight(state: State) -> float:
        return math.exp(min(math.fsum(step.log_probs) for step in state.steps))

    return {(tree.problem.id, end): weight(tree.state(end)) for tree in trees for end in tree.ends()}


def _some_right(tree: SearchTree, gold: Mapping[str, str], verifier: Verifier) -> str | None:
    answers = {v.answer for end in tree.ends() if (v := tree.verdict[end]) is not None and v.answer}
    right = gold[tree.problem.id]
    return next((answer for answer in answers if verifier.equivalent(right, answer) is True), None)


def main() -> None:
    """Measure what is not finished, and print what all of it gave."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/judges"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[31, 32, 33])
    parser.add_argument("--problems", type=int, default=250)
    parser.add_argument("--value-problems", type=int, default=800, help="0 trains no value model")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    torch.set_float32_matmul_precision("high")
    results = []
    for seed in options.seeds:
        settings = DemoSettings(seed=seed)
        path = options.output / f"{seed}.json"
        if not path.exists():
            folder = warmed_up(options.output / str(seed), settings)
            figures = measure(settings, folder, options)
            with atomic_write(path) as partial:
                partial.write_text(json.dumps(figures))
        results.append(json.loads(path.read_text()))
        print(seed, results[-1], flush=True)
    total = sum(result["problems"] for result in results)
    summary: dict[str, Any] = {}
    for name in results[0]["right"]:
        right = sum(result["right"][name] for result in results)
        low, high = wilson(right, total)
        summary[name] = [round(100 * share, 1) for share in (right / total, low, high)]
    for name in ("ok_of_right_steps", "ok_of_wrong_steps", "wrong_steps"):
        summary[name] = round(math.fsum(result[name] for result in results) / len(results), 1)
    arguments = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    print(json.dumps({"machine": machine(), "arguments": arguments, "problems": total, **summary}))


if __name__ == "__main__":
    main()
