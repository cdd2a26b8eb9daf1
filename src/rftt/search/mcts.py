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
from rftt.search.selection import SelectionRule, ValueTransform, as_they_are, uct
from rftt.search.tree import SearchTree

_NOISE: Final = "root_noise"
_NONE: Final[Counter[tuple[int, str | None]]] = Counter()


@frozen
class Dirichlet:
    """Noise in the root's prior (Silver et al. 2017): ``(1 - share) * prior + share * noise``, the noise
    drawn once a tree from a symmetric Dirichlet distribution."""

    concentration: float = field(default=0.3, validator=validators.gt(0))
    share: float = field(default=0.25, validator=[validators.ge(0), validators.le(1)])


@frozen
class _UnderWay:
    """Simulations of one round that have not been sampled yet."""

    through: Counter[int]
    """How many pass each node."""
    new: Counter[tuple[int, str | None]]
    """How many grow each child."""


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
    values: ValueTransform = as_they_are
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
        under_way = _UnderWay(Counter(), Counter())
        wishes: list[Expansion] = []
        has_room = partial(self._has_room, tree)
        while len(wishes) < self.parallel and not tree.closed[0]:
            path, new = self._go_down(tree, under_way, exploration)
            if new:
                under_way.through.update(path)
                under_way.new[path[-1], new[0]] += 1
                wishes.append(Expansion(path[-1], function=new[0], until=self.until))
            elif not tree.close_finished(path[-1], has_room):
                # All the room there is, is taken by simulations of this round.
                break
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
        self, tree: SearchTree, under_way: _UnderWay, exploration: float
    ) -> tuple[list[int], Sequence[str | None]]:
        """The path to where a child is to grow, and its function; none if the path ends where there is
        nothing to grow or to enter."""
        closed, node, path = tree.closed, tree.start, [tree.start]
        while True:
            new = self._new_children(tree, node, under_way.new)
            if new and self.openers == "sampled":
                return path, new
            children = [child for child in tree.children[node] if not closed[child]]
            if not new and not children:
                return path, ()
            place = self._best(tree, node, new, children, under_way.through, exploration)
            if place < len(new):
                return path, new[place : place + 1]
            node = children[place - len(new)]
            path.append(node)

    def _new_children(
        self, tree: SearchTree, node: int, growing: Counter[tuple[int, str | None]]
    ) -> Sequence[str | None]:
        """Functions by which a child may be added now."""
        children = tree.children[node]
        if self.openers == "sampled":
            count = len(children) + (growing[node, None] if growing else 0)
            if count >= self.width or not tree.is_open(node):
                return ()
            return (None,) if count < self._limit(tree, node, self.width) else ()
        prior = tree.prior[node]
        if prior is not None and len(children) >= len(prior) * self.width:
            return ()
        if not tree.is_open(node):
            return ()
        if prior is None:
            # A node of this very round: its prior comes with the next one.
            return (None,)
        tried: Counter[str | None] = Counter(s.function for c in children if (s := tree.segment[c]))
        for function in prior:
            tried[function] += growing[node, function]
        room = self._limit(tree, node, len(prior) * self.width) - tried.total()
        ranked = sorted(prior, key=prior.__getitem__, reverse=True)
        return [name for name in ranked if tried[name] < self.width][: max(0, room)]

    def _limit(self, tree: SearchTree, node: int, most: int) -> int:
        """How many children a node may have by now."""
        if self.widening is None or all(tree.closed[child] for child in tree.children[node]):
            return most
        return min(most, self.widening(tree.visits[node]))

    def _best(
        self,
        tree: SearchTree,
        node: int,
        new: Sequence[str | None],
        children: Sequence[int],
        passing: Counter[int],
        exploration: float,
    ) -> int:
        """The place of the best option, new children first."""
        if len(new) + len(children) == 1:
            return 0
        judged, total, visits = tree.judged, tree.total, tree.visits
        values: list[float | None] = [None] * len(new)
        values += [total[child] / judged[child] if judged[child] else None for child in children]
        counts = [0] * len(new)
        counts += [visits[child] for child in children]
        parent_visits = visits[node]
        if passing:
            counts[len(new) :] = [visits[child] + passing[child] for child in children]
            parent_visits += passing[node]
        value = total[node] / judged[node] if judged[node] else 0.0
        priors = self._priors(tree, node, new, children)
        scores = self.selection(self.values(value, values), counts, parent_visits, priors, exploration)
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
        return bool(self._new_children(tree, node, _NONE))


def _dirichlet(concentration: float, names: Iterable[str], rng: Random) -> dict[str, float]:
    draws = {name: rng.gammavariate(concentration, 1.0) for name in names}
    total = sum(draws.values())
    return {name: draw / total for name, draw in draws.items()}
