"""Every shipped strategy keeps the promises of a search strategy."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given

from rftt import Searcher, SearchTree
from rftt.search.strategies import (
    ABMCTS,
    MCTS,
    REBASE,
    AdaptiveConsistency,
    BeamSearch,
    BestOfN,
    DeepConfidence,
    Dirichlet,
    DiverseTreeSearch,
    Exponential,
    FrontierSearch,
    GumbelMCTS,
    LookaheadSearch,
    MixedModel,
    Outvoted,
    ParticleFilter,
    SoftmaxBallot,
    TreeOfThoughts,
    UncertaintyForking,
    VerifyThenRefine,
    Vote,
    Widening,
    breadth_first,
    depth_first,
    puct,
    qtransform_by_parent_and_siblings,
)
from rftt.testing import ContractViolation, check_searcher, trees
from rftt.testing.copies import copied, difference, reloaded
from rftt.testing.searcher.calls.faults import tree_faults
from tests.search.golden import columns, search
from tests.testing import broken

SHIPPED: list[Searcher] = [
    BestOfN(),
    BeamSearch(width=2, branching=2),
    MCTS(simulations_per_round=3, width=2, discount=0.5),
    MCTS(expansion="sample", width=3),
    GumbelMCTS(max_num_considered_actions=3, discount=0.9),
    DiverseTreeSearch(subtrees=2, branching=2),
    FrontierSearch(branching=2, nodes_per_round=2),
    ParticleFilter(particles=3),
    UncertaintyForking(roots=2, forks_per_round=2),
    AdaptiveConsistency(samples_per_round=2),
    ABMCTS(),
    TreeOfThoughts(breadth=2, samples=2),
    REBASE(width=4),
    LookaheadSearch(width=2, branching=2, steps_ahead=2),
    VerifyThenRefine(samples=2, verify="a", refine="b"),
    DeepConfidence(warmup=2, solutions=5, per_round=2, window=2),
]
VARIANTS: list[Searcher] = [
    MCTS(),
    MCTS(selection=puct, until="step"),
    MCTS(selection=puct, noise=Dirichlet(), qtransform=qtransform_by_parent_and_siblings),
    MCTS(exploration=Exponential(4.0, 0.5, 20), widening=Widening(1.0, 0.5), width=2),
    FrontierSearch(breadth_first, branching=2),
    FrontierSearch(depth_first, branching=2),
    ABMCTS(MixedModel(), simulations_per_round=3, until="step", scores_partial=True),
    TreeOfThoughts(breadth=2, samples=2, evaluate=Vote(SoftmaxBallot())),
    VerifyThenRefine(samples=3, doubt=Outvoted(), verify="a", refine="a"),
]
"""Shipped strategies with other settings."""

OPEN_ENDED = {"ends": "the budget ends it"}
GREEDY = {"starvation": "without exploration, an option that looks worse is not tried"}


def _name(value: object) -> str:
    return type(value).__name__ if isinstance(value, Searcher) else "reasons"


@pytest.mark.parametrize(
    "searcher", [*SHIPPED, *(pytest.param(each, marks=pytest.mark.slow) for each in VARIANTS)], ids=_name
)
def test_shipped_strategies_keep_every_promise(searcher: Searcher) -> None:
    check_searcher(searcher, max_examples=12, max_rounds=200)


@pytest.mark.parametrize(
    ("searcher", "reasons"),
    [(broken.NeverEnds(count=1), OPEN_ENDED), (MCTS(selection=puct, exploration=0.0), GREEDY)],
    ids=_name,
)
def test_a_promise_can_be_waived_with_a_reason(searcher: Searcher, reasons: dict[str, str]) -> None:
    (promise,) = reasons
    with pytest.raises(ContractViolation) as caught:
        check_searcher(searcher, max_examples=5, max_shrinks=10, max_rounds=200)
    assert caught.value.promise == promise
    check_searcher(searcher, max_examples=5, max_rounds=200, waived=reasons)


def test_a_complete_strategy_finds_the_best_leaf_and_another_does_not() -> None:
    check_searcher(MCTS(simulations_per_round=2), max_examples=10, finds_best=True)
    with pytest.raises(ContractViolation, match="the search found None") as caught:
        check_searcher(broken.SamplesFew(count=1), max_examples=10, max_shrinks=30, finds_best=True)
    assert caught.value.promise == "best leaf"


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no promise 'visit'; there are: structure, "):
        check_searcher(BestOfN(), waived={"visit": "a slip"})
    with pytest.raises(ValueError, match="is not a range"):
        check_searcher(BestOfN(), rewards=(1.0, 1.0))
    with pytest.raises(ValueError, match="seconds: 0 is no time"):
        check_searcher(BestOfN(), seconds=0)
    with pytest.raises(TypeError, match=r"give an instance, such as MCTS\(\)"):
        check_searcher(BestOfN)  # type: ignore[arg-type]


@given(trees())
def test_trees_that_are_made_up_could_have_been_searched(tree: SearchTree) -> None:
    assert list(tree_faults(tree)) == []
    assert difference(tree, reloaded(tree)) is None
    assert difference(tree, copied(tree)) is None


def test_trees_of_shipped_strategies_are_the_same_in_any_process() -> None:
    digests = [
        subprocess.run(
            [sys.executable, "-c", "from tests.testing.test_contract import digest; print(digest())"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert digests[0] == digests[1]
    assert digests[0].count("\n") == len([*SHIPPED, *VARIANTS])


def digest() -> str:
    """A line for each shipped strategy, that tells its trees from others."""
    lines = []
    for searcher in [*SHIPPED, *VARIANTS]:
        held = [columns(tree) for seed in range(2) for tree in search(searcher, table=0, seed=seed)]
        lines.append(hashlib.blake2b(json.dumps(held).encode(), digest_size=16).hexdigest())
    return "\n".join(lines)
