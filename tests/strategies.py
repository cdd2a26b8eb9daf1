"""Strategies shared by tests: the library's finite problems, and the searchers and budgets to try."""

from __future__ import annotations

from hypothesis import strategies as st

from rftt import (
    MCTS,
    AdaptiveConsistency,
    BeamSearch,
    BestOfN,
    Budget,
    DiverseTreeSearch,
    FrontierSearch,
    GumbelMCTS,
    ParticleFilter,
    Problem,
    Searcher,
    UncertaintyForking,
)  # fmt: skip
from rftt.finite.strategies import grammars, policies
from rftt.search.frontier import best_first, breadth_first, depth_first
from rftt.search.mcts import Dirichlet
from rftt.search.schedules import Linear, Widening
from rftt.search.selection import as_it_is, between_siblings, puct, uct

__all__ = ["budgets", "grammars", "policies", "problems", "searchers"]


def problems(count: int = 1) -> list[Problem]:
    """Problems whose right answer is 1."""
    return [Problem(f"p{i}", "what is it?", "1") for i in range(count)]


searchers: st.SearchStrategy[Searcher] = st.one_of(
    st.builds(
        MCTS,
        exploration=st.sampled_from([0.0, 1.0, 2.0]) | st.just(Linear(2.0, 0.5, 10)),
        selection=st.sampled_from([uct, puct]),
        values=st.sampled_from([as_it_is, between_siblings]),
        openers=st.sampled_from(["ranked", "sampled"]),
        width=st.integers(1, 3),
        widening=st.none() | st.just(Widening(1.0, 0.5)),
        noise=st.none() | st.just(Dirichlet()),
        parallel=st.integers(1, 4),
        discount=st.sampled_from([1.0, 0.9]),
    ),
    st.builds(
        GumbelMCTS, simulations=st.integers(1, 20), considered=st.integers(1, 4),
        discount=st.sampled_from([1.0, 0.9]),
    ),
    st.builds(BeamSearch, width=st.integers(1, 3), branching=st.integers(1, 3)),
    st.builds(DiverseTreeSearch, subtrees=st.integers(1, 3), branching=st.integers(1, 3)),
    st.builds(
        FrontierSearch, order=st.sampled_from([best_first, breadth_first, depth_first]),
        branching=st.integers(1, 3), at_once=st.integers(1, 3),
        prune_below=st.none() | st.just(-1.0),
    ),
    st.builds(ParticleFilter, particles=st.integers(1, 6)),
    st.builds(UncertaintyForking, roots=st.integers(1, 3), at_once=st.integers(1, 3)),
    st.builds(BestOfN, n=st.integers(1, 6)),
    st.builds(AdaptiveConsistency, most=st.integers(1, 12), at_once=st.integers(1, 4)),
)  # fmt: skip

budgets: st.SearchStrategy[Budget] = st.builds(
    Budget,
    rollouts=st.integers(1, 20),
    nodes=st.none() | st.integers(1, 20),
    tokens=st.none() | st.integers(1, 20),
    policy_calls=st.none() | st.integers(1, 8),
)
