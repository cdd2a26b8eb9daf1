"""Search strategies, and the rules they are made of."""

from rftt.search.strategies.ab_mcts import ABMCTS, BetaPrior, GaussianPrior, NodeAggregation
from rftt.search.strategies.best_of_n import AdaptiveConsistency, BestOfN
from rftt.search.strategies.deep_confidence import DeepConfidence
from rftt.search.strategies.forking import UncertaintyForking
from rftt.search.strategies.gumbel import GumbelMCTS, best_child, improved_policy
from rftt.search.strategies.levels.beam import BeamSearch, DiverseTreeSearch
from rftt.search.strategies.levels.frontier import FrontierSearch, best_first, breadth_first, depth_first
from rftt.search.strategies.levels.lookahead import LookaheadSearch
from rftt.search.strategies.levels.particles import ParticleFilter, identity, log_odds
from rftt.search.strategies.levels.rebase import REBASE
from rftt.search.strategies.levels.tree_of_thoughts import SoftmaxBallot, TreeOfThoughts, Value, Vote
from rftt.search.strategies.mcts import MCTS, Dirichlet
from rftt.search.strategies.mixed_model import MixedModel
from rftt.search.strategies.refine import Outvoted, ScoredBelow, VerifyThenRefine
from rftt.search.strategies.schedules import Constant, Exponential, Linear, Widening
from rftt.search.strategies.selection import (
    puct,
    qtransform_by_parent_and_siblings,
    qtransform_completed_by_mix_value,
    qtransform_identity,
    uct,
)

__all__ = [
    "ABMCTS",
    "MCTS",
    "REBASE",
    "AdaptiveConsistency",
    "BeamSearch",
    "BestOfN",
    "BetaPrior",
    "Constant",
    "DeepConfidence",
    "Dirichlet",
    "DiverseTreeSearch",
    "Exponential",
    "FrontierSearch",
    "GaussianPrior",
    "GumbelMCTS",
    "Linear",
    "LookaheadSearch",
    "MixedModel",
    "NodeAggregation",
    "Outvoted",
    "ParticleFilter",
    "ScoredBelow",
    "SoftmaxBallot",
    "TreeOfThoughts",
    "UncertaintyForking",
    "Value",
    "VerifyThenRefine",
    "Vote",
    "Widening",
    "best_child",
    "best_first",
    "breadth_first",
    "depth_first",
    "identity",
    "improved_policy",
    "log_odds",
    "puct",
    "qtransform_by_parent_and_siblings",
    "qtransform_completed_by_mix_value",
    "qtransform_identity",
    "uct",
]
