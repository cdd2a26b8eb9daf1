"""The search core without a model: python benchmarks/search_core.py

Simulations a second when the policy and the verifier cost next to nothing: for 64 trees of 16, 256 and
10,000 simulations each, and for one tree; beside mctx (JAX, compiled for the CPU, with a free
recurrent function and as many actions), if it is installed: pip install mctx. A simulation goes down
the tree by UCT, adds one node, has it scored, and backs the score up; ``flatness`` is the rate at
10,000 over that at 16. mctx's compilation does not count. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence

from machine import machine

from rftt import (
    MCTS,
    Budget,
    Function,
    GenerationRequest,
    Grammar,
    Policy,
    Problem,
    SearchConfig,
    State,
    Step,
    Verdict,
    Verifier,
    run_search,
)

ACTIONS = 4
STEP = Function("step", "do a step")
END = Function("end", "end")


class FreePolicy(Policy):
    """Always the same step, in no time."""

    grammar = Grammar([STEP, END], start=["step"], followers={"step": ("step", "end")})
    _completion = [Step("step", "", (1,), (0.0,), (True,), terminal=False)]  # noqa: RUF012 - never changed

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        raise NotImplementedError("the policy chooses its openers itself here")

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        return [self._completion] * len(requests)


class FreeVerifier(Verifier):
    """Scores that differ from node to node, from a fixed cycle."""

    def __init__(self) -> None:
        self._verdicts = [Verdict((i * 7919 % 1000) / 999) for i in range(1000)]
        self._count = 0

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        first = self._count
        self._count += len(states)
        return [self._verdicts[i % 1000] for i in range(first, self._count)]


def ours(trees: int, simulations: int, simulations_per_round: int) -> float:
    """Measure simulations a second."""
    searcher = MCTS(
        exploration=1.4, expansion="sample", width=ACTIONS, until="step", scores_partial=True,
        simulations_per_round=simulations_per_round,
    )  # fmt: skip
    problems = [Problem(str(i), "?") for i in range(trees)]
    policy, verifier = FreePolicy(), FreeVerifier()
    start = time.perf_counter()
    grown = run_search(
        problems, searcher, policy, verifier,
        SearchConfig(Budget(rollouts=simulations), max_depth=10_000),
    )  # fmt: skip
    seconds = time.perf_counter() - start
    assert all(tree.visits[0] == simulations == len(tree) - 1 for tree in grown)
    return trees * simulations / seconds


def mctx(trees: int, simulations: int) -> float | None:
    """Measure the same of mctx's MuZero policy, compilation not counted."""
    try:
        import jax
        import jax.numpy as jnp
        import mctx as library
    except ImportError:
        return None

    def step(parameters: object, key: object, action: jax.Array, embedding: jax.Array) -> object:
        reply = library.RecurrentFnOutput(
            reward=jnp.zeros(trees),
            discount=jnp.ones(trees),
            prior_logits=jnp.zeros((trees, ACTIONS)),
            value=jnp.sin(embedding + action),
        )
        return reply, embedding * 1.1 + action

    @jax.jit
    def search(key: jax.Array) -> jax.Array:
        root = library.RootFnOutput(
            prior_logits=jnp.zeros((trees, ACTIONS)), value=jnp.zeros(trees), embedding=jnp.zeros(trees)
        )
        output = library.muzero_policy((), key, root, step, num_simulations=simulations)
        return output.action_weights

    search(jax.random.key(0)).block_until_ready()
    start = time.perf_counter()
    search(jax.random.key(1)).block_until_ready()
    return trees * simulations / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations-per-round", type=int, default=1, help="of one tree")
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many is reported")
    arguments = parser.parse_args()
    figures: dict[str, object] = {}
    for trees in (64, 1):
        rates: dict[str, float] = {}
        for simulations in (16, 256, 10_000):
            repeats = 1 if trees * simulations > 100_000 else arguments.repeats
            rate = max(ours(trees, simulations, arguments.simulations_per_round) for _ in range(repeats))
            rates[f"simulations_per_s_{simulations}"] = round(rate)
            print(f"rftt, {trees} trees, {simulations} simulations: {rate:,.0f}/s", flush=True)
        rates["flatness"] = round(rates["simulations_per_s_10000"] / rates["simulations_per_s_16"], 3)
        for simulations in (16, 256, 1000):
            if (rate_or_none := mctx(trees, simulations)) is not None:
                rates[f"mctx_simulations_per_s_{simulations}"] = round(rate_or_none)
                print(f"mctx, {trees} trees, {simulations} simulations: {rate_or_none:,.0f}/s")
        figures[f"trees_{trees}"] = rates
    print(json.dumps(figures | {"machine": machine()}))


if __name__ == "__main__":
    main()
