"""What batching over problems is worth: python benchmarks/search_schedule.py --data PATH/asdiv.jsonl

Warm-up search over 64 problems with 16 rollouts each (MCTS with the paper's exploration and, as there,
two samples of a function; virtual visits let a tree ask for several simulations in a round): once with
all problems in every round, and once in the schedule of the paper's published code, one problem at a
time and one request at a time, with the same seeds. That is run on the first few problems and scaled
up. ``speedup`` is against transformers' own ``generate``, which reads a request's whole prefix again, as
the published code does; ``speedup_by_batching`` is against our sampler, which keeps prefixes.

``identical_trees`` is the share of those whose trees came out the same as by ``generate``: batched
kernels round differently, and a draw can fall on the other side of a boundary. ``us_outside_per_token``
is the batched run's wall time outside the model's forward passes, in microseconds for each sampled
token. ``sequential_requests`` counts steps: each is a request of its own where nothing is batched.

Every search is timed after one with another seed, which takes its memory from the system, and forgets
what was read before; what is in memory then is frozen (``gc.freeze``), so that a full collection of it
falls into neither. nano's searches take seconds, in which others' work on the machine shows: each is run
three times, by turns, and the shortest time counts (``slowest`` is the longest of the batched ones). The
last line is JSON.

``--device cuda`` is for a GPU. A pass counts as in the model until the GPU is through with it.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from attrs import frozen
from generate import GenerateSampler
from machine import machine
from transformers import PreTrainedModel

from rftt import (
    MCTS,
    Budget,
    GenerationRequest,
    Grammar,
    MathVerifier,
    Policy,
    Problem,
    PromptedPolicy,
    Sampler,
    SearchConfig,
    SearchTree,
    State,
    Step,
    TransformersSampler,
    load_problems,
    run_search,
)
from rftt.nano.checkpoint import load_nano
from rftt.problems.arithmetic import arithmetic_problems
from rftt.problems.sets import ASDIV

FIRST_FIVE = ("clarify", "analysis", "subquestion", "next_step", "direct_answer")


class OneByOne(Policy):
    """Passes requests on one at a time."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.grammar = policy.grammar

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        return [self.policy.prior([state])[0] for state in states]

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        return [self.policy.extend([request])[0] for request in requests]


class ModelClock:
    """Seconds inside a model's forward pass."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.seconds = 0.0
        self._start = 0.0
        model.register_forward_pre_hook(self._enter)
        model.register_forward_hook(self._leave)

    def _enter(self, *_: object) -> None:
        self._start = time.perf_counter()

    def _leave(self, model: PreTrainedModel, *_: object) -> None:
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - self._start


@frozen
class Run:
    """A search that was timed."""

    trees: list[SearchTree]
    rounds: int
    seconds: float
    in_model: float


def compare(
    policy: PromptedPolicy,
    problems: Sequence[Problem],
    chosen: argparse.Namespace,
    *,
    max_tokens: int,
    repeats: int,
) -> dict[str, float]:
    """Both schedules on one model."""
    searcher = MCTS(exploration=2.0, width=2, simulations_per_round=chosen.simulations_per_round)
    batched = policy.sampler
    assert isinstance(batched, TransformersSampler)
    model, tokenizer = batched.model.to(chosen.device), batched.tokenizer
    clock = ModelClock(model)
    verifier = MathVerifier()

    def run(parts: Sequence[Sequence[Problem]], by: Policy, sampler: Sampler, seed: int) -> Run:
        """Search some problems at once, then some others, all with nothing read before."""
        trees: list[SearchTree] = []
        rounds = 0

        def count(*_: object) -> None:
            nonlocal rounds
            rounds += 1

        policy.sampler = sampler
        if isinstance(sampler, TransformersSampler):
            sampler.forget()
        gc.collect()
        gc.freeze()
        clock.seconds, start = 0.0, time.perf_counter()
        for part in parts:
            trees += run_search(
                part, searcher, by, verifier,
                SearchConfig(
                    Budget(rollouts=chosen.rollouts), seed=seed, max_depth=15, max_tokens=max_tokens
                ),
                on_round=count,
            )  # fmt: skip
        return Run(trees, rounds, time.perf_counter() - start, clock.seconds)

    ones = [[problem] for problem in problems[: chosen.alone]]
    alone = OneByOne(policy)
    generate = GenerateSampler(model, tokenizer)
    prefixes = TransformersSampler(model, tokenizer, batch_size=1)
    run([problems], policy, batched, chosen.seed + 1)
    for sampler in (generate, prefixes):
        run(ones[:1], alone, sampler, chosen.seed + 1)
    # By turns, so that a slower time of the machine falls on all.
    turns = [
        (
            run([problems], policy, batched, chosen.seed),
            run(ones, alone, generate, chosen.seed),
            run(ones, alone, prefixes, chosen.seed),
        )
        for _ in range(repeats)
    ]
    best, by_generate, with_prefixes = (
        min(runs, key=lambda timed: timed.seconds) for runs in zip(*turns, strict=True)
    )
    scale = sum(map(len, best.trees)) / sum(map(len, best.trees[: chosen.alone]))
    tokens = sum(tree.tokens for tree in best.trees)
    same = [_steps(a) == _steps(b) for a, b in zip(best.trees, by_generate.trees, strict=False)]
    return {
        "rounds": best.rounds,
        "sequential_requests": sum(len(tree) - 1 for tree in best.trees),
        "speedup": round(by_generate.seconds * scale / best.seconds, 2),
        "speedup_by_batching": round(with_prefixes.seconds * scale / best.seconds, 2),
        "identical_trees": sum(same) / len(same),
        "us_outside_per_token": round(1e6 * (best.seconds - best.in_model) / tokens),
        "seconds": round(best.seconds, 1),
        "slowest": round(max(turn[0].seconds for turn in turns), 1),
    }


def _steps(tree: SearchTree) -> list[tuple[int, tuple[int, ...]]]:
    """Which ids stand where; log-probabilities differ by rounding in any case."""
    return [(p, s.ids) for p, s in zip(tree.parent, tree.step, strict=True) if s is not None]


def nano(problems: int) -> tuple[PromptedPolicy, list[Problem]]:
    model, tokenizer = load_nano()
    policy = PromptedPolicy(
        TransformersSampler(model, tokenizer, batch_size=512), tokenizer, Grammar.default(),
        functions=FIRST_FIVE,
    )  # fmt: skip
    return policy, arithmetic_problems(problems, "warmup")


def smollm2(problems: int, data: Path) -> tuple[PromptedPolicy, list[Problem]]:
    from smollm2 import EXAMPLES, PROMPTS, load_smollm2, plain_question

    model, tokenizer = load_smollm2()
    policy = PromptedPolicy(
        TransformersSampler(model, tokenizer, batch_size=64), tokenizer, Grammar.default(),
        functions=FIRST_FIVE, prompts=PROMPTS,
        question=lambda problem: EXAMPLES + plain_question(problem),
    )  # fmt: skip
    return policy, load_problems(data, ASDIV)[:problems]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("nano", "smollm2", "both"), default="both")
    parser.add_argument("--data", type=Path, help="asdiv.jsonl, for SmolLM2")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--rollouts", type=int, default=16)
    parser.add_argument("--simulations-per-round", type=int, default=16, help="of one tree")
    parser.add_argument("--alone", type=int, default=2, help="problems of the sequential schedule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where the model is")
    chosen = parser.parse_args()
    figures: dict[str, object] = {}
    if chosen.model != "smollm2":
        policy, problems = nano(chosen.problems)
        figures["nano"] = compare(policy, problems, chosen, max_tokens=256, repeats=3)
        print("nano:", figures["nano"], flush=True)
    if chosen.model != "nano":
        if chosen.data is None:
            parser.error("SmolLM2 needs word problems: --data PATH/asdiv.jsonl")
        policy, problems = smollm2(chosen.problems, chosen.data)
        figures["smollm2"] = compare(policy, problems, chosen, max_tokens=60, repeats=1)
        print("smollm2:", figures["smollm2"], flush=True)
    print(json.dumps(figures | {"machine": machine()}))


if __name__ == "__main__":
    main()
