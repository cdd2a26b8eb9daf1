"""Search strategies, and the rules they are made of."""

from rftt.search.strategies.beam import BeamSearch, DiverseTreeSearch
from rftt.search.strategies.best_of_n import AdaptiveConsistency, BestOfN
from rftt.search.strategies.forking import UncertaintyForking
from rftt.search.strategies.frontier import FrontierSearch, best_first, breadth_first, depth_first
from rftt.search.strategies.gumbel import GumbelMCTS
from rftt.search.strategies.mcts import MCTS, Dirichlet
from rftt.search.strategies.particles import ParticleFilter
from rftt.search.strategies.schedules import Constant, Exponential, Linear, Widening
from rftt.search.strategies.selection import (
    puct,
    qtransform_by_parent_and_siblings,
    qtransform_identity,
    uct,
)

__all__ = [
    "MCTS",
    "AdaptiveConsistency",
    "BeamSearch",
    "BestOfN",
    "Constant",
    "Dirichlet",
    "DiverseTreeSearch",
    "Exponential",
    "FrontierSearch",
    "GumbelMCTS",
    "Linear",
    "ParticleFilter",
    "UncertaintyForking",
    "Widening",
    "best_first",
    "breadth_first",
    "depth_first",
    "puct",
    "qtransform_by_parent_and_siblings",
    "qtransform_identity",
    "uct",
]
