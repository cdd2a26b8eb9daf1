"""Monte Carlo tree search, with the rule of choice, the exploration and the widening passed in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from random import Random
from typing import Final, Literal

from attrs import field, frozen, validators

from rftt.search.schedules import Constant, Schedule, Widening, as_schedule
from rftt.search.searcher import Expansion, Growth, Searcher
from rftt.search.selection import SelectionRule, ValueTransform, as_it_is, uct
from rftt.search.tree import SearchTree
from rftt.search.walks import add_visits, descend

_NOISE: Final = "root_noise"
_Growing = dict[tuple[int, str | None], int]
"""How many children of each node and function simulations of this round will add."""
_NOTHING: Final[_Growing] = {}


@frozen
class Dirichlet:
    """Noise in the root's prior (Silver et al. 2017): ``(1 - share) * prior + share * noise``, the noise
    drawn once a tree from a symmetric Dirichlet distribution."""

    concentration: float = field(default=0.3, validator=validators.gt(0))
    share: float = field(default=0.25, validator=[validators.ge(0), validators.le(1)])


@frozen
class MCTS(Searcher):
    """Each simulation goes down to a node with room for a child and samples on to an answer.

    All steps of a sample become nodes, so later simulations can branch off anywhere along it. A
    finished subtree is closed and not entered again.

    Attributes:
        exploration: the constant of the rule, or a schedule of it.
        selection: the rule of choice; :func:`rftt.search.selection.uct` or ``puct``.
        values: what the rule sees of the mean scores.
        openers: who chooses a new child's function. ``"ranked"``: the searcher; each legal function
            of the policy's prior is an option of its own, with or without a child, ``width`` samples
            each, and among equals the likeliest is first (arXiv 2502.13389). ``"sampled"``: the
            policy; a node has room for ``width`` children, and openers are samples that
            reinforcement can learn from. A node with room is grown before its children are entered.
        width: see ``openers``.
        widening: lets the number of children grow with the visits; ``None`` is all at once.
        noise: in the root's prior; matters to ``"ranked"``.
        parallel: simulations in one round. Those under way count as visits, so that they spread.
        discount: factor on a score for each step it is backed up.
        until: whether a simulation samples one step or goes on to an answer.
        judges_steps: whether the verifier judges where a simulation ends, answer or not; with
            ``until="step"`` it takes the place of AlphaZero's value network.
    """

    exploration: Schedule = field(default=Constant(2.0), converter=as_schedule)
    selection: SelectionRule = uct
    values: ValueTransform = as_it_is
    openers: Literal["ranked", "sampled"] = field(
        default="ranked", validator=validators.in_(("ranked", "sampled"))
    )
    width: int = field(default=1, validator=validators.ge(1))
    widening: Widening | None = None
    noise: Dirichlet | None = None
    parallel: int = field(default=1, validator=validators.ge(1))
    discount: float = field(default=1.0, validator=[validators.gt(0), validators.le(1)])
    until: Literal["step", "answer"] = field(
        default="answer", validator=validators.in_(("step", "answer"))
    )
    judges_steps: bool = False

    @property
    def needs_prior(self) -> bool:  # type: ignore[override]
        return self.openers == "ranked"

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        prior = tree.prior[tree.start]
        if self.noise is not None and _NOISE not in tree.memo and prior is not None:
            tree.memo[_NOISE] = _dirichlet(self.noise.concentration, prior, rng)
        exploration = self.exploration(tree.visits[0])
        growing: _Growing = {}
        wishes: list[Expansion] = []
        has_room = partial(self._has_room, tree)
        while len(wishes) < self.parallel and not tree.closed[0]:
            node, new = self._go_down(tree, growing, exploration)
            if new:
                growing[node, new[0]] = growing.get((node, new[0]), 0) + 1
                # Counted while others of this round go down, so that they spread.
                add_visits(tree.parent, tree.visits, node, 1)
                wishes.append(Expansion(node, function=new[0], until=self.until))
            elif not tree.close_finished(node, has_room):
                # All the room there is, is taken by simulations of this round.
                break
        for wish in wishes:
            add_visits(tree.parent, tree.visits, wish.node, -1)
        return wishes

    def tell(self, tree: SearchTree, grown: Sequence[Growth]) -> None:
        for growth in grown:
            for chain, score in zip(growth.chains, growth.scores, strict=True):
                tree.backup(chain[-1], score, discount=self.discount)
        has_room = partial(self._has_room, tree)
        for growth in grown:
            for chain in growth.chains:
                tree.close_finished(chain[-1], has_room)

    def _go_down(
        self, tree: SearchTree, growing: _Growing, exploration: float
    ) -> tuple[int, Sequence[str | None]]:
        """Where a child is to grow, and its function; none where there is nothing to grow or enter."""
        node = tree.start
        while True:
            node = descend(tree, node, self._mark, self.selection, self.values, exploration)
            children = tree.children(node)
            if tree.settled[node] != self._mark and len(children) >= self._most_children(tree, node):
                self._settle(tree, node, children)
                continue
            new = self._new_children(tree, node, children, growing)
            if new and self.openers == "sampled":
                return node, new
            entered = [child for child in children if not tree.closed[child]]
            if not new and not entered:
                return node, ()
            place = self._best(tree, node, new, entered, exploration)
            if place < len(new):
                return node, new[place : place + 1]
            node = entered[place - len(new)]

    @property
    def _mark(self) -> int:
        """Tells nodes that these settings have settled from those that others have."""
        return self.width if self.openers == "ranked" else -self.width

    def _settle(self, tree: SearchTree, node: int, children: Sequence[int]) -> None:
        """Note that a node has all its children; whoever passes from now on does not look for room."""
        for child, chance in zip(children, self._priors(tree, node, (), children), strict=True):
            tree.chance[child] = chance
        tree.settled[node] = self._mark

    def _most_children(self, tree: SearchTree, node: int) -> float:
        if self.openers == "sampled":
            return self.width
        prior = tree.prior[node]
        # The prior of a node of this very round comes with the next one.
        return math.inf if prior is None else len(prior) * self.width

    def _new_children(
        self, tree: SearchTree, node: int, children: Sequence[int], growing: _Growing
    ) -> Sequence[str | None]:
        """Functions by which a child may be added now."""
        most = self._most_children(tree, node)
        if len(children) >= most or not tree.is_open(node):
            return ()
        if self.widening is not None and not all(tree.closed[child] for child in children):
            most = min(most, self.widening(tree.visits[node]))
        prior = tree.prior[node]
        if self.openers == "sampled":
            return (None,) if len(children) + growing.get((node, None), 0) < most else ()
        if prior is None:
            return (None,)
        tried: Counter[str | None] = Counter(s.function for c in children if (s := tree.segment[c]))
        for function in prior:
            tried[function] += growing.get((node, function), 0)
        room = max(0, int(most) - tried.total())
        ranked = sorted(prior, key=prior.__getitem__, reverse=True)
        return [name for name in ranked if tried[name] < self.width][:room]

    def _best(
        self,
        tree: SearchTree,
        node: int,
        new: Sequence[str | None],
        children: Sequence[int],
        exploration: float,
    ) -> int:
        """The place of the best option, new children first."""
        if len(new) + len(children) == 1:
            return 0
        mean = tree.value(node) or 0.0
        known = [mean if (value := tree.value(child)) is None else value for child in children]
        low, high = min([mean, *known]), max([mean, *known])
        values = [mean] * len(new) + known
        visits = [0] * len(new) + [tree.visits[child] for child in children]
        priors = self._priors(tree, node, new, children)
        scores = [
            self.selection(self.values(value, low, high), count, tree.visits[node], prior, exploration)
            for value, count, prior in zip(values, visits, priors, strict=True)
        ]
        return scores.index(max(scores))

    def _priors(
        self, tree: SearchTree, node: int, new: Sequence[str | None], children: Sequence[int]
    ) -> list[float]:
        """A probability for each option: that of its function, shared by its samples."""
        prior = tree.prior[node]
        if self.openers == "sampled" or prior is None:
            return [1 / self.width] * (len(new) + len(children))
        noise = tree.memo.get(_NOISE) if node == tree.start else None
        share = self.noise.share if self.noise and noise else 0.0
        names = [*new, *(s.function if (s := tree.segment[child]) else None for child in children)]
        probabilities = []
        for name in names:
            p = math.exp(prior[name]) if name is not None and name in prior else 0.0
            if noise is not None:
                p = (1 - share) * p + share * noise.get(name, 0.0)
            probabilities.append(p / self.width)
        return probabilities

    def _has_room(self, tree: SearchTree, node: int) -> bool:
        return bool(self._new_children(tree, node, tree.children(node), _NOTHING))


def _dirichlet(concentration: float, names: Iterable[str], rng: Random) -> dict[str, float]:
    draws = {name: rng.gammavariate(concentration, 1.0) for name in names}
    total = sum(draws.values())
    return {name: draw / total for name, draw in draws.items()}
