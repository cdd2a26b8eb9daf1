"""Searches of its_hub and treequest against ours: python benchmarks/versus_peers.py

    pip install --no-deps its-hub==1.2.0 treequest==0.3.3 && pip install scipy joblib ulid-py pyyaml

All drive the same nano, warmed up as in `rftt demo`, and see one score of a path: the geometric mean of
its tokens' probabilities, so no gold answer. From all solutions that a search has finished, the answer
is chosen by one rule, a vote weighted by that score. Ours may spend on a problem as many tokens as the
peer spent on the mean. Beams and particles go on to their own end instead, with its_hub's settings: a
beam of 4 paths with 2 samples each, whether it keeps copies, as its_hub's does, or not, as by default
here. In the breadth first search of Tree of Thoughts 6 paths are kept instead, because copies count once
and those that are left get no more samples.

its_hub's beam is not quite the published one (Snell et al. 2024), as ours is: it begins with 2 samples
instead of 8, and a path that has ended keeps its place and is doubled in each round, so that a good one
soon fills the beam and the search ends.

its_hub's unit is a step, treequest's a whole solution: below one a check is forced and a new answer
sampled, where ours branch off from any step. With a step as the node, neither treequest nor ours
finishes more than one solution in ten problems by AB-MCTS-A: it goes wide, not down.

``side_by_side`` is the time of a problem when all are searched in one batch; the peers, which search one
problem at a time, are given that by an adapter here. ``alone`` is the time of a problem when one is
searched after the other, which is how the peers' own loops run. Both are processor seconds of one
thread. ``times_faster`` compares ours side by side with the peer's alone, and with the peer's side by
side. The last line is JSON. Finished runs in the output folder are not repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from its_hub.core.algorithms.beam_search import BeamSearch as ItsHubBeamSearch
from its_hub.core.algorithms.particle_gibbs import ParticleFiltering
from learning import warmed_up
from machine import machine
from peers import MAX_DEPTH, SOLUTION_TOKENS, STEP_TOKENS, Run, Tally, its_hub, treequest
from treequest import ABMCTSA, StandardMCTS

from rftt import MCTS, Budget, MathVerifier, Policy, Problem, SearchConfig, Searcher, State, Verdict
from rftt.demo.models import functional_policy
from rftt.demo.settings import DemoSettings
from rftt.evaluation.intervals import estimate
from rftt.evaluation.paired import paired_difference
from rftt.files import atomic_write
from rftt.policies.loading import load_model
from rftt.problems.arithmetic import arithmetic_problems
from rftt.search.answers.voting import group_answers
from rftt.search.engine.engine import run_search
from rftt.search.scores import verifier_score
from rftt.search.strategies import ABMCTS, BeamSearch, ParticleFilter, TreeOfThoughts, Value
from rftt.verifiers.extraction import boxed
from rftt.verifiers.function import FunctionVerifier

ALONE = 5
"""Problems that are also searched one after the other."""

RULES = ("weighted", "majority", "best")
"""Ways to choose an answer: the largest sum of scores, the most solutions, the largest score."""

NOT_DRIVEN = {
    "treequest AB-MCTS-M": "samples a posterior by MCMC at each choice, which takes 18 s by one thread",
}


def path_probability(state: State) -> float:
    """Return the geometric mean of the probabilities of a path's ids, 1 at the question."""
    log_probs = [p for step in state.steps for p in step.log_probs]
    return math.exp(sum(log_probs) / len(log_probs)) if log_probs else 1.0


MATH = MathVerifier()
SCORER = FunctionVerifier(path_probability, boxed, MATH.equivalent, scores_partial=True)


def ours(policy: Policy, searcher: Searcher, max_tokens: int = STEP_TOKENS) -> Run:
    """Search by a strategy of ours, all problems in one batch."""

    def search(problems: Sequence[Problem], seed: int, tokens: int) -> Tally:
        budget = Budget(rollouts=10_000, tokens=tokens)
        config = SearchConfig(budget, seed, max_depth=MAX_DEPTH, max_tokens=max_tokens)
        tally = Tally()
        for tree in run_search(problems, searcher, policy, SCORER, config):
            tally.tokens[tree.problem.id] = tree.tokens
            for node in tree.ends():
                verdict = tree.verdict[node]
                if tree.is_terminal(node) and verdict is not None:
                    tally.finished[tree.problem.id] += [verdict] * tree.ended[node]
        return tally

    return search


@frozen
class Arm:
    """A search. Ours has the peer whose tokens it may spend, unless it is not ``limited``."""

    run: Run
    peer: str | None = None
    limited: bool = True


def arms(policy: Policy) -> dict[str, Arm]:
    """Return the searches, ours after their peers."""
    scored: Any = {"score": verifier_score, "scores_partial": True}
    beam = BeamSearch(width=4, branching=2, distinct=False, **scored)
    distinct = BeamSearch(width=4, branching=2, **scored)
    particles = ParticleFilter(particles=8, **scored)
    thoughts = TreeOfThoughts(6, 2, Value(verifier_score), scores_partial=True)
    ab_mcts = ABMCTS(simulations_per_round=4)
    mcts = MCTS(1.0, expansion="sample", width=4, simulations_per_round=4)
    return {
        "its_hub beam search": Arm(its_hub(policy, SCORER, lambda s, p: ItsHubBeamSearch(s, p, 4), 8)),
        "beam search": Arm(ours(policy, beam), "its_hub beam search", limited=False),
        "beam search, distinct": Arm(ours(policy, distinct), "its_hub beam search", limited=False),
        "Tree of Thoughts": Arm(ours(policy, thoughts), "its_hub beam search", limited=False),
        "its_hub particle filter": Arm(its_hub(policy, SCORER, ParticleFiltering, 8)),
        "particle filter": Arm(ours(policy, particles), "its_hub particle filter", limited=False),
        "treequest AB-MCTS-A": Arm(treequest(policy, SCORER, ABMCTSA())),
        "AB-MCTS-A": Arm(ours(policy, ab_mcts, SOLUTION_TOKENS), "treequest AB-MCTS-A"),
        "treequest MCTS": Arm(treequest(policy, SCORER, StandardMCTS())),
        "MCTS": Arm(ours(policy, mcts, SOLUTION_TOKENS), "treequest MCTS"),
    }


def choose(verdicts: Sequence[Verdict], rule: str) -> str | None:
    """Choose an answer of finished solutions, ``None`` if they have none."""
    answered = [(place, v.answer) for place, v in enumerate(verdicts) if v.answer is not None]

    def worth(group: Sequence[tuple[int, str]]) -> float:
        scores = [verdicts[place].score or 0.0 for place, _ in group]
        return {"weighted": sum(scores), "majority": len(scores), "best": max(scores)}[rule]

    groups = group_answers(answered, MATH.equivalent)
    return max(groups, key=worth)[0][1] if groups else None


def measure(run: Run, problems: Sequence[Problem], seed: int, tokens: int) -> dict[str, Any]:
    """Search with a seed, without the gold answers, and mark what was chosen."""
    hidden = [evolve(problem, answer=None, metadata={}) for problem in problems]
    random.seed(seed)
    np.random.seed(seed)
    wall, start = time.monotonic(), time.process_time()
    tally = run(hidden, seed, tokens)
    wall, side_by_side = time.monotonic() - wall, time.process_time() - start
    start = time.process_time()
    for problem in hidden[:ALONE]:
        run([problem], seed, tokens)
    found: dict[str, Any] = {
        "wall_side_by_side": wall / len(hidden),
        "side_by_side": side_by_side / len(hidden),
        "alone": (time.process_time() - start) / len(hidden[:ALONE]),
        "tokens": [tally.tokens[problem.id] for problem in problems],
        "finished": [len(tally.finished[problem.id]) for problem in problems],
    }
    for rule in RULES:
        chosen = [choose(tally.finished[problem.id], rule) for problem in problems]
        found[rule] = [
            answer is not None and MATH.equivalent(problem.answer or "", answer) is True
            for problem, answer in zip(problems, chosen, strict=True)
        ]
    return found


def summary(runs: Mapping[str, Sequence[Mapping[str, Any]]], peers: Mapping[str, str]) -> dict[str, Any]:
    """Return each search's figures over all seeds, and how ours compare with their peers."""
    figures: dict[str, Any] = {}
    shares: dict[tuple[str, str], list[float]] = {}
    for name, seeds in runs.items():
        figure = figures[name] = {}
        for rule in RULES:
            of_problems = zip(*(seed[rule] for seed in seeds), strict=True)
            shares[name, rule] = [float(np.mean(marks)) for marks in of_problems]
            found = estimate(shares[name, rule])
            figure[rule] = [round(100 * x, 1) for x in (found.value, found.low, found.high)]
        for key in ("tokens", "finished"):
            figure[key] = round(float(np.mean([seed[key] for seed in seeds])), 1)
        for key in ("wall_side_by_side", "side_by_side", "alone"):
            figure[key] = round(float(np.mean([seed[key] for seed in seeds])), 3)
    for name, peer in peers.items():
        mine, theirs = figures[name], figures[peer]
        mine["peer"] = peer
        for rule in RULES:
            found = paired_difference(shares[peer, rule], shares[name, rule])
            difference = [round(100 * x, 1) for x in (found.value, found.low, found.high)]
            mine[f"{rule}_difference"] = [*difference, round(found.p_value, 4)]
        mine["times_faster"] = {
            f"than_{key}": round(theirs[key] / mine["side_by_side"], 2)
            for key in ("alone", "side_by_side")
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="default: warmed up in the output folder")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--split", choices=("heldout", "reinforce"), default="heldout")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=1000, help="of a problem, for treequest")
    parser.add_argument("--output", type=Path, default=Path("runs/versus_peers"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    settings = DemoSettings()
    folder = chosen.model or warmed_up(chosen.output / "demo", settings)
    policy = functional_policy(settings, *load_model(folder), settings.temperature)
    problems = arithmetic_problems(chosen.problems, chosen.split, seed=settings.seed)
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]
    made_with = {key: getattr(chosen, key) for key in ("problems", "split", "tokens")}
    made_with["model_sha256"] = weights
    searches = arms(policy)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in searches}
    for seed in chosen.seeds:
        for name, arm in searches.items():
            path = chosen.output / f"{name}, seed {seed}.json"
            if not path.exists():
                tokens = chosen.tokens if arm.limited else 100 * chosen.tokens
                if arm.peer is not None and arm.limited:
                    tokens = round(float(np.mean(runs[arm.peer][-1]["tokens"])))
                found = measure(arm.run, problems, seed, tokens)
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(path) as partial:
                    partial.write_text(json.dumps({"made_with": made_with, "found": found}))
            stored = json.loads(path.read_text())
            if stored["made_with"] != made_with:
                raise SystemExit(f"{path} was made with {stored['made_with']}; choose another --output")
            runs[name].append(stored["found"])
            print(seed, name, summary({name: runs[name][-1:]}, {})[name], flush=True)
    peers = {name: arm.peer for name, arm in searches.items() if arm.peer is not None}
    versions = {name: version(name) for name in ("its_hub", "treequest")}
    result = {"searches": summary(runs, peers), "not_driven": NOT_DRIVEN, **made_with}
    print(json.dumps(result | {"seeds": chosen.seeds, "machine": machine() | versions}))


if __name__ == "__main__":
    main()
