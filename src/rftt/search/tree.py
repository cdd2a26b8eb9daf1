"""The search tree: the one object that searching hands to learning.

Append-only, struct of arrays: node ``n`` is entry ``n`` of each list, node 0 is the question, and a
parent's number is smaller than its children's. A node exists only for a step that was sampled; a
legal function without a child is an edge, found in the prior.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import define, field

from rftt.interfaces import Segment, Solution, State, Verdict
from rftt.problems.problem import Problem
from rftt.search.walks import add_rollout
from rftt.tokens.grammar import Grammar

# Numbers stand as a C program holds them: compiled code reads them where they are, and those of many
# large trees fit in the processor's cache.
_minus_one = partial(array, "i", [-1])
_zero = partial(array, "i", [0])
_false = partial(array, "b", [0])
_zero_point = partial(array, "d", [0.0])


@define(eq=False)
class SearchTree:
    """Everything that is known of one problem's search.

    Per node: ``parent`` (-1 at the root), ``depth``, ``segment`` (``None`` at the root),
    ``visits`` (rollouts that passed or ended here), ``ended`` (rollouts that ended here), ``judged`` and
    ``total`` (number and sum of the scores of those rollouts), ``prior`` (log-probabilities of the
    functions that may follow, once known), ``verdict`` (where a rollout was judged) and ``closed``
    (nothing below is left to search).

    ``start`` is the node below which the search goes on: 0, or a step that it has committed to; nodes
    above that have no room for children. ``rounds`` counts finished rounds and ``samples`` chains asked
    of the policy; both feed the random streams. ``memo`` is for what a strategy must remember beyond
    this: keep it JSON-able.

    What follows from the rest is not saved: ``first_child``, ``last_child`` and ``next_sibling`` (0
    where there is none), and what a tree search notes of nodes that will have no more children:
    ``settled``, a mark of the settings by which that is so (0 where it is not), and ``chance``, the
    prior probability of such a node's child.
    """

    problem: Problem
    grammar: Grammar
    max_depth: int = 18
    parent: array[int] = field(factory=_minus_one)
    depth: array[int] = field(factory=_zero)
    segment: list[Segment | None] = field(factory=lambda: [None])
    visits: array[int] = field(factory=_zero)
    ended: array[int] = field(factory=_zero)
    judged: array[int] = field(factory=_zero)
    total: array[float] = field(factory=_zero_point)
    prior: list[Mapping[str, float] | None] = field(factory=lambda: [None])
    verdict: list[Verdict | None] = field(factory=lambda: [None])
    closed: array[int] = field(factory=_false)
    first_child: array[int] = field(factory=_zero)
    last_child: array[int] = field(factory=_zero)
    next_sibling: array[int] = field(factory=_zero)
    settled: array[int] = field(factory=_zero, eq=False)
    chance: array[float] = field(factory=_zero_point, eq=False)
    start: int = 0
    rounds: int = 0
    samples: int = 0
    tokens: int = 0
    memo: dict[str, Any] = field(factory=dict)

    def __len__(self) -> int:
        return len(self.parent)

    def attach(self, parent: int, segment: Segment) -> int:
        """Add a child and return its number.

        Raises ``ValueError`` if the parent is terminal, too deep, or may not be followed by this
        function.
        """
        above = self.segment[parent]
        if self.is_terminal(parent):
            raise ValueError(
                f"tree {self.problem.id!r}: node {parent} ended its solution; it has no children"
            )
        legal = self.grammar.legal(above.function if above else None)
        if segment.function not in legal:
            raise ValueError(
                f"tree {self.problem.id!r}: {segment.function!r} may not follow node {parent}; "
                f"legal: {legal}"
            )
        if self.depth[parent] >= self.max_depth:
            raise ValueError(
                f"tree {self.problem.id!r}: node {parent} is at the depth limit {self.max_depth}"
            )
        node = len(self.parent)
        self.parent.append(parent)
        self.depth.append(self.depth[parent] + 1)
        self.segment.append(segment)
        self.visits.append(0)
        self.ended.append(0)
        self.judged.append(0)
        self.total.append(0.0)
        self.prior.append(None)
        self.verdict.append(None)
        self.closed.append(0)
        self.first_child.append(0)
        self.last_child.append(0)
        self.next_sibling.append(0)
        self.settled.append(0)
        self.chance.append(0.0)
        if self.first_child[parent]:
            self.next_sibling[self.last_child[parent]] = node
        else:
            self.first_child[parent] = node
        self.last_child[parent] = node
        self.tokens += len(segment.ids)
        return node

    def children(self, node: int) -> list[int]:
        """A node's children in the order in which they came."""
        found, child = [], self.first_child[node]
        while child:
            found.append(child)
            child = self.next_sibling[child]
        return found

    def backup(self, node: int, score: float | None, *, discount: float = 1.0) -> None:
        """Record one rollout that ended at ``node``: a visit for it and all above, and its score
        (``None`` if it was not judged), multiplied by ``discount`` once for each step upwards."""
        self.ended[node] += 1
        columns = self.parent, self.visits, self.judged, self.total
        if score is None:
            add_rollout(*columns, node, False, 0.0, discount)
        else:
            add_rollout(*columns, node, True, score, discount)

    def close(self, node: int) -> None:
        """Declare that nothing is left to search below ``node``."""
        self.closed[node] = 1

    def close_finished(self, node: int, has_room: Callable[[int], bool]) -> bool:
        """Close a node if all its children are closed and ``has_room`` says that there will be no more,
        then its ancestors likewise; whether any was closed now."""
        found = False
        while node >= 0 and self._is_finished_below(node) and not has_room(node):
            found = found or not self.closed[node]
            self.closed[node] = 1
            node = self.parent[node]
        return found

    def _is_finished_below(self, node: int) -> bool:
        child = self.first_child[node]
        while child and self.closed[child]:
            child = self.next_sibling[child]
        return not child

    def value(self, node: int) -> float | None:
        """The mean score of judged rollouts through a node, ``None`` if there is none."""
        judged = self.judged[node]
        return self.total[node] / judged if judged else None

    def is_terminal(self, node: int) -> bool:
        """Whether the solution ends at this node."""
        segment = self.segment[node]
        return segment is not None and segment.is_final

    def is_open(self, node: int) -> bool:
        """Whether a child could be added here."""
        return (
            node >= self.start
            and not self.closed[node]
            and not self.is_terminal(node)
            and self.depth[node] < self.max_depth
        )

    def legal(self, node: int) -> tuple[str, ...]:
        """Functions that may follow this node."""
        segment = self.segment[node]
        return self.grammar.legal(segment.function if segment else None)

    def path(self, node: int) -> list[int]:
        """Node numbers from the first step to ``node``; the root is left out."""
        nodes = []
        while node > 0:
            nodes.append(node)
            node = self.parent[node]
        return nodes[::-1]

    def state(self, node: int) -> State:
        """The node as a policy sees it."""
        return State(self.problem, self._segments(node))

    def solution(self, node: int) -> Solution:
        """The node as a verifier sees it."""
        return Solution(self._segments(node))

    def _segments(self, node: int) -> tuple[Segment, ...]:
        parent, segment = self.parent, self.segment
        segments: list[Segment] = []
        while node > 0:
            step = segment[node]
            assert step is not None
            segments.append(step)
            node = parent[node]
        segments.reverse()
        return tuple(segments)

    def ends(self) -> Iterator[int]:
        """Nodes at which a rollout ended, in order of their numbers."""
        return (node for node, ended in enumerate(self.ended) if ended)

    def text(self, node: int) -> str:
        """The step's text; the question at the root."""
        segment = self.segment[node]
        return segment.text if segment else self.problem.question


def summary(trees: Sequence[SearchTree]) -> dict[str, float]:
    """Mean figures over trees: nodes, tokens, rollouts, and the share of rollouts that scored."""
    judged = sum(tree.judged[0] for tree in trees)
    return {
        "nodes": sum(map(len, trees)) / max(1, len(trees)),
        "tokens": sum(tree.tokens for tree in trees) / max(1, len(trees)),
        "rollouts": sum(tree.visits[0] for tree in trees) / max(1, len(trees)),
        "score": sum(tree.total[0] for tree in trees) / judged if judged else 0.0,
    }
