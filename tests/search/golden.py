"""Golden trees: what each strategy grows on finite problems at fixed seeds, recorded once.

The record, ``golden_trees.json``, was made by the first version of this library, and again for
strategies that were mended since: gumbel (with its discount), beam, dvts, best-first, breadth-first,
depth-first, particles and forking. ``python -m tests.search.golden beam dvts`` records those two anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

from rftt import Budget, Grammar, MathVerifier, Problem, SearchConfig, Searcher, SearchTree, run_search
from rftt.search.strategies import (
    MCTS,
    AdaptiveConsistency,
    BeamSearch,
    BestOfN,
    Dirichlet,
    DiverseTreeSearch,
    Exponential,
    FrontierSearch,
    GumbelMCTS,
    Linear,
    ParticleFilter,
    UncertaintyForking,
    Widening,
    breadth_first,
    depth_first,
    puct,
    qtransform_by_parent_and_siblings,
)
from rftt.testing.finite.tabular import Reply, TabularPolicy

ROLLOUTS = 12
STRATEGIES: dict[str, Searcher] = {
    "mcts": MCTS(),
    "mcts-rounds-of-3": MCTS(simulations_per_round=3, width=2, discount=0.5),
    "mcts-sample": MCTS(expansion="sample", width=3),
    "mcts-sample-rounds-of-4": MCTS(
        expansion="sample", width=3, simulations_per_round=4, exploration=1.0
    ),
    "mcts-puct-step": MCTS(selection=puct, until="step"),
    "mcts-puct-noise": MCTS(
        selection=puct, noise=Dirichlet(), qtransform=qtransform_by_parent_and_siblings
    ),
    "mcts-widening": MCTS(exploration=Exponential(4.0, 0.5, 20), widening=Widening(1.0, 0.5), width=2),
    "mcts-linear": MCTS(exploration=Linear(2.0, 0.5, 10), width=2, simulations_per_round=2),
    "gumbel": GumbelMCTS(max_num_considered_actions=3, discount=0.9),
    "gumbel-2": GumbelMCTS(max_num_considered_actions=2),
    "beam": BeamSearch(width=2, branching=2),
    "dvts": DiverseTreeSearch(subtrees=2, branching=2),
    "best-first": FrontierSearch(branching=2, nodes_per_round=2),
    "breadth-first": FrontierSearch(breadth_first, branching=2),
    "depth-first": FrontierSearch(depth_first, branching=2, prune_below=-1.0),
    "particles": ParticleFilter(particles=3),
    "forking": UncertaintyForking(roots=2, forks_per_round=2),
    "best-of-n": BestOfN(),
    "adaptive": AdaptiveConsistency(samples_per_round=2),
}


def table_policy(seed: int, max_depth: int = 5) -> TabularPolicy:
    """Build a policy over the paper's grammar: two or three replies a state, answers 0, 1 and 2."""
    rng = Random(f"golden/{seed}")
    grammar = Grammar.default()
    table: dict[tuple[str, ...], list[Reply]] = {}

    def grow(path: tuple[str, ...], last: str | None) -> None:
        legal = grammar.legal(last)
        if not legal:
            return
        if len(path) >= max_depth - 2:
            ends = [name for name in ("output", "direct_answer") if name in legal]
            legal = tuple(ends) or legal
        chosen = [rng.choice(legal) for _ in range(rng.randint(2, 3))]
        weights = [rng.randint(1, 4) for _ in chosen]
        replies = []
        for number, (function, weight) in enumerate(zip(chosen, weights, strict=True)):
            answer = f" so \\boxed{{{rng.randint(0, 2)}}}" if function == "output" else ""
            replies.append(Reply(function, f"{function} {number}{answer}", weight / sum(weights)))
        table[path] = replies
        for reply in replies:
            grow((*path, reply.text), reply.function)

    grow((), None)
    return TabularPolicy(grammar, table)


def search(searcher: Searcher, table: int, seed: int, **settings: Any) -> list[SearchTree]:
    """Search two problems of one table."""
    problems = [Problem(f"p{i}", "what is it?", "1") for i in range(2)]
    config = SearchConfig(Budget(rollouts=ROLLOUTS), seed=seed, max_depth=6, **settings)
    return run_search(problems, searcher, table_policy(table), MathVerifier(), config)


def recorded() -> dict[str, Any]:
    """Read the record: for each strategy, table, seed and problem the columns of its tree."""
    text = Path(__file__).with_name("golden_trees.json").read_text(encoding="utf-8")
    record: dict[str, Any] = json.loads(text)
    return record


def columns(tree: SearchTree) -> dict[str, Any]:
    """Return a tree's columns as the record has them."""
    return {
        "rounds": tree.rounds,
        "samples": tree.rollouts,
        "parent": tree.parent,
        "text": [step and step.text for step in tree.step],
        "visits": tree.visits,
        "ended": tree.ended,
        "judged": tree.value_count,
        "total": [round(total, 9) for total in tree.value_sum],
        # The root's mark said that a strategy's own limit was reached; now the budget says so.
        "exhausted": [int(flag) for flag in tree.exhausted[1:]],
        "score": [verdict and verdict.score for verdict in tree.verdict],
    }


def main(names: list[str]) -> None:
    """Record the trees of some strategies anew."""
    record = recorded()
    for name in names:
        for table in range(3):
            for seed in (0, 1):
                for tree in search(STRATEGIES[name], table, seed):
                    record[f"{name}/table {table}/seed {seed}/{tree.problem.id}"] = columns(tree)
    rows = [
        f"{json.dumps(key)}: {json.dumps(row, separators=(',', ':'))}" for key, row in record.items()
    ]
    path = Path(__file__).with_name("golden_trees.json")
    path.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
