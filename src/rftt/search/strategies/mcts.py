"""Monte Carlo tree search, with the selection rule, the exploration and the widening passed in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from random import Random
from typing import Final, Literal

from attrs import field, frozen, validators

from rftt.search.searcher import Expansion, ExpansionResult, Searcher
from rftt.search.strategies.schedules import Constant, Schedule, Widening, as_schedule
from rftt.search.strategies.selection import QTransform, SelectionRule, qtransform_identity, uct
from rftt.search.tree.tree import SearchTree

_NOISE: Final = "root_noise"
_Pending = dict[tuple[int, str | None], int]
"""The number of children, by node and function, that simulations of this round will add."""
_NOTHING: Final[_Pending] = {}


@frozen
class Dirichlet:
    """Noise in the root's prior (Silver et al. 2017): ``(1 - fraction) * prior + fraction * noise``.

    The noise is drawn once a tree from a symmetric Dirichlet distribution.
    """

    alpha: float = field(default=0.3, validator=validators.gt(0))
    fraction: float = field(default=0.25, validator=[validators.ge(0), validators.le(1)])


@frozen
class MCTS(Searcher):
    """Go down to a node with room for a child in each simulation, and sample on from there.

    All steps of a completion become nodes, so that later simulations can branch off anywhere along it.
    An exhausted subtree is not entered again.

    Attributes:
        exploration: the constant of the rule, or a schedule of it.
        selection: the selection rule, :func:`~rftt.search.strategies.selection.uct` or ``puct``.
        qtransform: what the rule sees of the mean scores.
        expansion: who chooses a new child's function. ``"enumerate"``: the searcher; each legal function
            of the policy's prior is an option of its own, with or without a child, ``width``
            completions each, and among equals the likeliest is first (arXiv 2502.13389). ``"sample"``:
            the policy; a node has room for ``width`` children, and their functions are samples that
            reinforcement can learn from. A node with room is expanded before its children are entered.
        width: see ``expansion``.
        widening: lets the number of children grow with the visits; ``None`` is all at once.
        noise: in the root's prior; matters to ``"enumerate"``.
        simulations_per_round: simulations whose completions are sampled in one batch. Those pending
            count as visits, so that they spread.
        discount: factor on a score for each step it is backed up.
        until: whether a simulation samples one step or goes on to the end of a solution.
        scores_partial: whether the verifier judges where a simulation ends, complete solution or not;
            with ``until="step"`` it takes the place of AlphaZero's value network.
    """

    exploration: Schedule = field(default=Constant(2.0), converter=as_schedule)
    selection: SelectionRule = uct
    qtransform: QTransform = qtransform_identity
    expansion: Literal["enumerate", "sample"] = field(
        default="enumerate", validator=validators.in_(("enumerate", "sample"))
    )
    width: int = field(default=1, validator=validators.ge(1))
    widening: Widening | None = None
    noise: Dirichlet | None = None
    simulations_per_round: int = field(default=1, validator=validators.ge(1))
    discount: float = field(default=1.0, validator=[validators.gt(0), validators.le(1)])
    until: Literal["step", "solution"] = field(
        default="solution", validator=validators.in_(("step", "solution"))
    )
    scores_partial: bool = False

    @property
    def needs_prior(self) -> bool:  # type: ignore[override]
        return self.expansion == "enumerate"

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        prior = tree.prior[tree.start]
        if self.noise is not None and _NOISE not in tree.memo and prior is not None:
            tree.memo[_NOISE] = _dirichlet(self.noise.alpha, prior, rng)
        exploration = self.exploration(tree.visits[0])
        pending: _Pending = {}
        expansions: list[Expansion] = []
        has_room = partial(self._has_room, tree)
        while len(expansions) < self.simulations_per_round and not tree.exhausted[0]:
            node, functions = self._select(tree, pending, exploration)
            if functions:
                pending[node, functions[0]] = pending.get((node, functions[0]), 0) + 1
                # Counted while other simulations of this round go down, so that they spread.
                tree.add_visits(node, 1)
                expansions.append(Expansion(node, function=functions[0], until=self.until))
            elif not tree.propagate_exhausted(node, has_room):
                # All the room there is, is taken by pending simulations.
                break
        for expansion in expansions:
            tree.add_visits(expansion.node, -1)
        return expansions

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        for result in results:
            for nodes, score in zip(result.completions, result.scores, strict=True):
                tree.backup(nodes[-1], score, discount=self.discount)
        has_room = partial(self._has_room, tree)
        for result in results:
            for nodes in result.completions:
                tree.propagate_exhausted(nodes[-1], has_room)

    def _select(
        self, tree: SearchTree, pending: _Pending, exploration: float
    ) -> tuple[int, Sequence[str | None]]:
        """Go down to where a child is to be added; return the node and the child's function first, or
        no function where there is nothing to add and nothing to enter."""
        node, exhausted = tree.start, tree.exhausted
        while True:
            functions = self._new_functions(tree, node, pending)
            if functions and self.expansion == "sample":
                return node, functions
            entered = [child for child in tree.children[node] if not exhausted[child]]
            if not functions and not entered:
                return node, ()
            best = self._best_option(tree, node, functions, entered, exploration)
            if best < len(functions):
                return node, functions[best : best + 1]
            node = entered[best - len(functions)]

    def _new_functions(self, tree: SearchTree, node: int, pending: _Pending) -> Sequence[str | None]:
        """Return the functions by which a child may be added now."""
        children, prior = tree.children[node], tree.prior[node]
        if self.expansion == "sample":
            most = self.width
        else:
            # The prior of a node of this very round comes with the next one.
            most = len(children) + 1 if prior is None else len(prior) * self.width
        if len(children) >= most or not tree.is_open(node):
            return ()
        if self.widening is not None and not all(tree.exhausted[child] for child in children):
            most = min(most, self.widening(tree.visits[node]))
        if self.expansion == "sample":
            return (None,) if len(children) + pending.get((node, None), 0) < most else ()
        if prior is None:
            return (None,)
        tried: Counter[str | None] = Counter(s.function for c in children if (s := tree.step[c]))
        for function in prior:
            tried[function] += pending.get((node, function), 0)
        room = max(0, most - tried.total())
        ranked = sorted(prior, key=prior.__getitem__, reverse=True)
        return [name for name in ranked if tried[name] < self.width][:room]

    def _best_option(
        self,
        tree: SearchTree,
        node: int,
        functions: Sequence[str | None],
        children: Sequence[int],
        exploration: float,
    ) -> int:
        """Return the place of the best option, new functions first."""
        new = len(functions)
        if new + len(children) == 1:
            return 0
        value_count, value_sum, visits = tree.value_count, tree.value_sum, tree.visits
        count = value_count[node]
        parent_value = value_sum[node] / count if count else 0.0
        # A parent's value is discounted once more than its children's.
        values = [
            self.discount * value_sum[child] / count if (count := value_count[child]) else parent_value
            for child in children
        ]
        counts = [visits[child] for child in children]
        if new:
            values, counts = [parent_value] * new + values, [0] * new + counts
        scores = self.selection(
            self.qtransform(values, parent_value),
            counts,
            visits[node],
            self._option_priors(tree, node, functions, children),
            exploration,
        )
        return scores.index(max(scores))

    def _option_priors(
        self, tree: SearchTree, node: int, functions: Sequence[str | None], children: Sequence[int]
    ) -> list[float]:
        """Return a probability for each option: that of its function, shared by its completions."""
        prior = tree.prior[node]
        if self.expansion == "sample" or prior is None:
            return [1 / self.width] * (len(functions) + len(children))
        noise = tree.memo.get(_NOISE) if node == tree.start else None
        fraction = self.noise.fraction if self.noise and noise else 0.0
        names = [*functions, *(s.function if (s := tree.step[child]) else None for child in children)]
        probabilities = []
        for name in names:
            p = math.exp(prior[name]) if name is not None and name in prior else 0.0
            if noise is not None:
                p = (1 - fraction) * p + fraction * noise.get(name, 0.0)
            probabilities.append(p / self.width)
        return probabilities

    def _has_room(self, tree: SearchTree, node: int) -> bool:
        return bool(self._new_functions(tree, node, _NOTHING))


def _dirichlet(alpha: float, names: Iterable[str], rng: Random) -> dict[str, float]:
    gammas = {name: rng.gammavariate(alpha, 1.0) for name in names}
    total = sum(gammas.values())
    return {name: gamma / total for name, gamma in gammas.items()}
