"""Adaptive branching MCTS: wider or deeper, decided by Thompson sampling."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from random import Random
from typing import Final, Literal

from attrs import field, frozen, validators

from rftt.search.searcher import Expansion, Searcher
from rftt.search.tree.tree import SearchTree

_OBSERVED: Final = "ab_mcts"
_MOMENTS: Final = ("generated", "continued", "ended", "through")


@frozen
class Scores:
    """Scores that were observed, by their moments.

    Attributes:
        count: how many.
        total: their sum.
        squares: the sum of their squares.
    """

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    @staticmethod
    def of(values: Sequence[float]) -> Scores:
        """Return the moments of some scores."""
        return Scores(len(values), math.fsum(values), math.fsum([value * value for value in values]))


@frozen
class Options:
    """What was observed of the options at a node.

    Attributes:
        generated: the score of each completion that made a child.
        continued: the scores of all completions that went on from a child.
        ended: the scores of children from which nothing can go on, one each at the most.
        children: for each child from which the search can go on, all scores through it: of the
            completion that made it, and of those that went on from it.
    """

    generated: Scores
    continued: Scores
    ended: Scores
    children: Sequence[Scores]


class BranchingRule(ABC):
    """Decides at a node between a new child and one that is there."""

    @abstractmethod
    def choose(self, options: Options, rng: Random) -> int | None:
        """Return the place in ``options.children`` to go on from, ``None`` for a new child."""

    def check(self, score: float) -> None:  # noqa: B027
        """Raise ``ValueError`` if a score is not one that the rule is for. By default all are."""


@frozen
class ABMCTS(Searcher):
    """Search by adaptive branching MCTS (AB-MCTS; Inoue et al. 2025, arXiv 2503.04412).

    From the question down, each node is left by a choice: sample a new child from it (GEN, go wider),
    or go on to a child that it has (CONT, go deeper). The choice is made by Thompson sampling: a
    score is drawn for each option from what is believed of it, and the option with the largest is
    taken. So no number of children is fixed beforehand. A child that is terminal or at the depth limit
    still tells what a new one may bring, but is not an option.

    Since a policy can be sampled without end, the budget must limit rollouts.

    Attributes:
        rule: what is believed of the options: :class:`NodeAggregation` is the variant AB-MCTS-A,
            :class:`~rftt.search.strategies.mixed_model.MixedModel` AB-MCTS-M.
        simulations_per_round: completions that are sampled in one batch. Each is chosen by draws of its
            own from the same beliefs.
        until: whether a completion is one step, or goes on to the end of a solution, so that each of its
            steps is a node that can be left again.
        scores_partial: whether the verifier judges where a completion ends, complete solution or not.
            In the paper every node has a score: so it is with this and ``until="step"``.
    """

    rule: BranchingRule = field(factory=lambda: NodeAggregation())
    simulations_per_round: int = field(default=1, validator=validators.ge(1))
    until: Literal["step", "solution"] = field(
        default="solution", validator=validators.in_(("step", "solution"))
    )
    scores_partial: bool = False
    needs_rollout_limit = True

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        _observe(tree, self.rule)
        return [self._simulate(tree, rng) for _ in range(self.simulations_per_round)]

    def is_done(self, tree: SearchTree) -> bool:
        return not tree.is_open(tree.start)

    def _simulate(self, tree: SearchTree, rng: Random) -> Expansion:
        memo, node = tree.memo[_OBSERVED], tree.start
        while children := [child for child in memo["open"][node] if tree.is_open(child)]:
            options = Options(
                generated=Scores(*memo["generated"][node]),
                continued=Scores(*memo["continued"][node]),
                ended=Scores(*memo["ended"][node]),
                children=[Scores(*memo["through"][child]) for child in children],
            )
            chosen = self.rule.choose(options, rng)
            if chosen is None:
                break
            node = children[chosen]
        return Expansion(node, until=self.until)


def _observe(tree: SearchTree, rule: BranchingRule) -> None:
    """Note down the nodes and the verdicts that are new.

    In ``memo``, for each node: the children from which the search can go on, and the moments of the
    scores that :class:`Options` names. The first score through a child is that of the completion that
    made it, unless the verifier abstained from that one.
    """
    memo = tree.memo.setdefault(_OBSERVED, {"open": [], **{name: [] for name in _MOMENTS}})
    first = len(memo["open"])
    for node in range(first, len(tree)):
        memo["open"].append([])
        for name in _MOMENTS:
            memo[name].append([0, 0.0, 0.0])
        if node > 0 and tree.is_open(node):
            memo["open"][tree.parent[node]].append(node)
    for end in range(first, len(tree)):
        verdict = tree.verdict[end]
        if verdict is not None and verdict.score is not None and tree.ended[end]:
            rule.check(verdict.score)
            for node in tree.path(end):
                parent, through = tree.parent[node], memo["through"][node]
                _add(memo["continued" if through[0] else "generated"][parent], verdict.score)
                _add(through, verdict.score)
                if not tree.is_open(node):
                    _add(memo["ended"][parent], verdict.score)


def _add(moments: list[float], score: float) -> None:
    moments[0] += 1
    moments[1] += score
    moments[2] += score**2


class Prior(ABC):
    """A conjugate prior of the mean of scores."""

    @abstractmethod
    def draw(self, scores: Scores, rng: Random) -> float:
        """Draw a mean from the posterior after ``scores``."""

    def check(self, score: float) -> None:  # noqa: B027
        """Raise ``ValueError`` if a score is not one that the prior is for. By default all are."""


@frozen
class GaussianPrior(Prior):
    """A normal-inverse-chi-squared prior: scores are normal with unknown mean and variance.

    ``variance ~ Inv-chi2(nu, tau_square)`` and ``mean ~ N(m, variance / kappa)`` (Murphy, "Probabilistic
    Machine Learning: Advanced Topics", 3.4.3.3). Names and defaults are treequest's.

    Attributes:
        m: the mean that is expected beforehand.
        kappa: how many scores that expectation is worth.
        nu: how many scores the expected variance is worth.
        tau_square: the variance that is expected beforehand.
    """

    m: float = 0.0
    kappa: float = field(default=1.0, validator=validators.gt(0))
    nu: float = field(default=1.0, validator=validators.gt(0))
    tau_square: float = field(default=0.1, validator=validators.gt(0))

    def posterior(self, scores: Scores) -> GaussianPrior:
        """Return the distribution after some scores, of the same kind as before."""
        return GaussianPrior(*self._updated(scores))

    def draw(self, scores: Scores, rng: Random) -> float:
        m, kappa, nu, tau_square = self._updated(scores)
        variance = nu * tau_square / (2 * rng.gammavariate(nu / 2, 1.0))
        return rng.normalvariate(m, math.sqrt(variance / kappa))

    def _updated(self, scores: Scores) -> tuple[float, float, float, float]:
        n, kappa, nu = scores.count, self.kappa + scores.count, self.nu + scores.count
        mean = scores.total / n if n else 0.0
        # Rounding can leave a spread just below zero.
        spread = max(0.0, scores.squares - n * mean**2)
        shift = n * self.kappa / kappa * (self.m - mean) ** 2
        tau_square = (self.nu * self.tau_square + spread + shift) / nu
        return (self.kappa * self.m + scores.total) / kappa, kappa, nu, tau_square


@frozen
class BetaPrior(Prior):
    """A beta prior, for scores in [0, 1]: a score ``r`` is ``r`` successes and ``1 - r`` failures.

    The defaults are Jeffreys' prior.
    """

    a: float = field(default=0.5, validator=validators.gt(0))
    b: float = field(default=0.5, validator=validators.gt(0))

    def draw(self, scores: Scores, rng: Random) -> float:
        return rng.betavariate(self.a + scores.total, self.b + scores.count - scores.total)

    def check(self, score: float) -> None:
        if not 0 <= score <= 1:
            raise ValueError(
                f"BetaPrior: the score {score:g} is not in [0, 1]; use GaussianPrior or scale the scores"
            )


@frozen
class NodeAggregation(BranchingRule):
    """AB-MCTS-A: all children together are one option, CONT, against a new child, GEN.

    GEN has observed the scores of the completions that made the children; CONT the scores of all
    completions that went on from them, so that no score is in both. If CONT's draw is larger, the child
    is chosen by a second draw for each, from all scores through it, its own included.

    Attributes:
        prior: of the mean score of an option.
    """

    prior: Prior = field(factory=GaussianPrior)

    def choose(self, options: Options, rng: Random) -> int | None:
        generated = self.prior.draw(options.generated, rng)
        if generated >= self.prior.draw(options.continued, rng):
            return None
        draws = [self.prior.draw(scores, rng) for scores in options.children]
        return draws.index(max(draws))

    def check(self, score: float) -> None:
        self.prior.check(score)
