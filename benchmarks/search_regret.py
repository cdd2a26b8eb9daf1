"""How soon each strategy finds the best leaf: python benchmarks/search_regret.py

Simple regret, the best leaf's score less that of the answer chosen, against sampled tokens, on random
finite problems of which everything is known; the mean over problems and its 95% interval. All strategies
have the same budget of tokens, and choose by the verifier's score. ``VerifyThenRefine`` is missing: a
solution of these problems ends with its answer, and no check may follow. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from random import Random

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from machine import machine

from rftt import Budget, Grammar, SearchConfig, Searcher, Verdict, run_search
from rftt.search.scores import mean_log_prob
from rftt.search.strategies import (
    ABMCTS,
    MCTS,
    REBASE,
    AdaptiveConsistency,
    BeamSearch,
    BestOfN,
    DeepConfidence,
    DiverseTreeSearch,
    FrontierSearch,
    GumbelMCTS,
    LookaheadSearch,
    MixedModel,
    ParticleFilter,
    TreeOfThoughts,
    UncertaintyForking,
    Value,
    Widening,
    best_first,
    breadth_first,
    depth_first,
    puct,
)
from rftt.testing import FiniteProblem, Reply, TabularPolicy
from rftt.testing.finite.problem import Path as TextPath
from rftt.testing.finite.problem import leaves

BUDGETS = (8, 16, 32, 64, 128, 256, 512)
STEPS = 7
"""To the deepest leaf; every step is one token."""


STRATEGIES: dict[str, Searcher] = {
    "UCT": MCTS(exploration=1.0),
    "PUCT": MCTS(exploration=1.0, selection=puct),
    "UCT, sampled functions": MCTS(exploration=1.0, expansion="sample", width=4),
    "UCT, widening": MCTS(exploration=1.0, widening=Widening(1.0, 0.5)),
    "Gumbel": GumbelMCTS(),
    "AB-MCTS-A": ABMCTS(),
    "AB-MCTS-M": ABMCTS(MixedModel()),
    "beam": BeamSearch(),
    "DVTS": DiverseTreeSearch(),
    "lookahead": LookaheadSearch(score=mean_log_prob),
    "REBASE": REBASE(score=mean_log_prob),
    "Tree of Thoughts": TreeOfThoughts(evaluate=Value(mean_log_prob)),
    "best-first": FrontierSearch(best_first),
    "breadth-first": FrontierSearch(breadth_first),
    "depth-first": FrontierSearch(depth_first),
    "best of N": BestOfN(),
    "adaptive consistency": AdaptiveConsistency(samples_per_round=1),
    "DeepConf": DeepConfidence(solutions=512, window=3),
    "particles": ParticleFilter(),
    "forking": UncertaintyForking(),
}


def random_problem(rng: Random, depth: int = 5) -> FiniteProblem:
    """Make up a problem whose functions differ in worth: a leaf's score is a mean that drifts along the
    path."""
    grammar = Grammar.default()
    table: dict[TextPath, list[Reply]] = {}
    verdicts: dict[TextPath, Verdict] = {}

    def fill(path: TextPath, last: str | None, left: int, worth: float) -> None:
        legal = [f for f in grammar.legal(last) if (f == "output") == (left == 0)] or ["output"]
        if "output" in legal and "output" not in grammar.legal(last):
            legal = ["direct_answer"]
        chosen = legal if left else legal[:1]
        weights = [rng.random() + 0.1 for _ in chosen]
        table[path] = [
            Reply(name, f"{name} {rng.random():.6f}", w / sum(weights))
            for name, w in zip(chosen, weights, strict=True)
        ]
        for reply in table[path]:
            child, drift = (*path, reply.text), worth + rng.gauss(0, 0.15)
            if reply.function == "output":
                score = 1 / (1 + math.exp(-4 * drift))
                verdicts[child] = Verdict(score, answer=reply.text)
            else:
                fill(child, reply.function, max(0, left - 1), drift)

    fill((), None, depth, 0.0)
    policy = TabularPolicy(grammar, table)
    return FiniteProblem(policy, {leaf: verdicts[leaf] for leaf in leaves(policy)})


def regret(finite: FiniteProblem, searcher: Searcher, tokens: int, seed: int) -> float:
    """Return the best score there is, less the best score found."""
    # max_tokens tells the engine how many completions fit into the tokens. Each takes one at least, so
    # that the tokens limit every strategy and the rollouts none.
    config = SearchConfig(Budget(rollouts=tokens, tokens=tokens), seed, max_tokens=STEPS)
    (tree,) = run_search(finite.problems(), searcher, finite.policy, finite.verifier, config)
    best = finite.best_score
    assert best is not None
    found = [v.score for v in tree.verdict if v is not None and v.score is not None]
    return best - max(found, default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, default=Path("search_regret.png"))
    chosen = parser.parse_args()
    rng = Random(chosen.seed)
    problems = [random_problem(rng) for _ in range(chosen.problems)]
    print(f"{chosen.problems} problems of {np.mean([len(p.leaves) for p in problems]):.0f} leaves")
    figures: dict[str, object] = {}
    figure, axes = plt.subplots(figsize=(9, 6))
    lines = cycler(linestyle=["-", "--", ":"]) * cycler(color=plt.get_cmap("tab10").colors)
    axes.set_prop_cycle(lines)
    for name, searcher in STRATEGIES.items():
        means, halves = [], []
        for tokens in BUDGETS:
            regrets = [regret(finite, searcher, tokens, seed) for seed, finite in enumerate(problems)]
            means.append(float(np.mean(regrets)))
            halves.append(1.96 * float(np.std(regrets, ddof=1)) / len(regrets) ** 0.5)
        figures[name] = {
            "regret": [round(m, 4) for m in means], "half_interval": [round(h, 4) for h in halves],
        }  # fmt: skip
        axes.errorbar(BUDGETS, means, yerr=halves, label=name, capsize=2)
        print(f"{name:22}", " ".join(f"{m:.3f}" for m in means), flush=True)
    axes.set(xscale="log", xlabel="sampled tokens", ylabel="simple regret")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(chosen.picture, dpi=120, bbox_inches="tight")
    print(json.dumps({"tokens": BUDGETS, "strategies": figures, "machine": machine()}))


if __name__ == "__main__":
    main()
