"""Hypothesis strategies shared by tests: the library's own, and the searchers and budgets to try."""

from __future__ import annotations

from hypothesis import strategies as st

from rftt import Budget, Problem, Searcher
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
    FrontierSearch,
    GumbelMCTS,
    Linear,
    LookaheadSearch,
    MixedModel,
    NodeAggregation,
    Outvoted,
    ParticleFilter,
    ScoredBelow,
    SoftmaxBallot,
    TreeOfThoughts,
    UncertaintyForking,
    Value,
    VerifyThenRefine,
    Vote,
    Widening,
    best_first,
    breadth_first,
    depth_first,
    puct,
    qtransform_by_parent_and_siblings,
    qtransform_identity,
    uct,
)
from rftt.testing import grammars, policies

__all__ = ["budgets", "grammars", "policies", "problems", "searchers"]


def problems(count: int = 1) -> list[Problem]:
    """Problems whose right answer is 1."""
    return [Problem(f"p{i}", "what is it?", "1") for i in range(count)]


searchers: st.SearchStrategy[Searcher] = st.one_of(
    st.builds(
        MCTS,
        exploration=st.sampled_from([0.0, 1.0, 2.0]) | st.just(Linear(2.0, 0.5, 10)),
        selection=st.sampled_from([uct, puct]),
        qtransform=st.sampled_from([qtransform_identity, qtransform_by_parent_and_siblings]),
        expansion=st.sampled_from(["enumerate", "sample"]),
        width=st.integers(1, 3),
        widening=st.none() | st.just(Widening(1.0, 0.5)),
        noise=st.none() | st.just(Dirichlet()),
        simulations_per_round=st.integers(1, 4),
        discount=st.sampled_from([1.0, 0.9]),
    ),
    st.builds(
        GumbelMCTS,
        max_num_considered_actions=st.integers(1, 4),
        discount=st.sampled_from([1.0, 0.9]),
    ),
    st.builds(BeamSearch, width=st.integers(1, 3), branching=st.integers(1, 3)),
    st.builds(DiverseTreeSearch, subtrees=st.integers(1, 3), branching=st.integers(1, 3)),
    st.builds(
        FrontierSearch,
        order=st.sampled_from([best_first, breadth_first, depth_first]),
        branching=st.integers(1, 3),
        nodes_per_round=st.integers(1, 3),
        prune_below=st.none() | st.just(-1.0),
    ),
    st.builds(ParticleFilter, particles=st.integers(1, 6)),
    st.builds(UncertaintyForking, roots=st.integers(1, 3), forks_per_round=st.integers(1, 3)),
    st.just(BestOfN()),
    st.builds(AdaptiveConsistency, samples_per_round=st.integers(1, 4)),
    st.builds(
        ABMCTS,
        rule=st.sampled_from([NodeAggregation(), MixedModel()]),
        simulations_per_round=st.integers(1, 3),
        until=st.sampled_from(["step", "solution"]),
        scores_partial=st.booleans(),
    ),
    st.builds(
        TreeOfThoughts,
        breadth=st.integers(1, 3),
        samples=st.integers(1, 3),
        evaluate=st.sampled_from([Value(), Vote(SoftmaxBallot())]),
    ),
    st.builds(REBASE, width=st.integers(1, 5)),
    st.builds(
        LookaheadSearch,
        width=st.integers(1, 3),
        branching=st.integers(1, 3),
        steps_ahead=st.integers(0, 2),
    ),
    st.builds(
        VerifyThenRefine,
        samples=st.integers(1, 3),
        doubt=st.sampled_from([ScoredBelow(), Outvoted()]),
        verify=st.just("a"),
        refine=st.sampled_from(["a", "b"]),
    ),
    st.builds(
        DeepConfidence,
        warmup=st.integers(1, 3),
        solutions=st.integers(1, 6),
        per_round=st.integers(1, 3),
        window=st.integers(1, 3),
    ),
)

budgets: st.SearchStrategy[Budget] = st.builds(
    Budget,
    rollouts=st.integers(1, 20),
    nodes=st.none() | st.integers(1, 20),
    tokens=st.none() | st.integers(1, 20),
    policy_calls=st.none() | st.integers(1, 8),
)
