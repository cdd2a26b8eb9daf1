"""The search tree: the one object that searching hands to learning.

Append-only, struct of arrays: node ``n`` is entry ``n`` of each list, node 0 is the question, and a
parent's number is smaller than its children's. A node exists only for a step that was sampled; a
legal function without a child is an edge, found in the prior.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import define, field

from rftt.interfaces import Segment, Solution, State, Verdict
from rftt.problems.problem import Problem
from rftt.tokens.grammar import Grammar

_NUMBERS = list(range(1024))
"""Node numbers as objects. All trees share them, so that those of many trees stay in the processor's
cache: a number of its own in each tree would cost more to look up than all arithmetic on it."""


def _number(node: int) -> int:
    while node >= len(_NUMBERS):
        _NUMBERS.append(len(_NUMBERS))
    return _NUMBERS[node]


def _doubles(values: Iterable[float]) -> array[float]:
    return array("d", values)


@define(eq=False)
class SearchTree:
    """Everything that is known of one problem's search.

    Per node: ``parent`` (-1 at the root), ``depth``, ``segment`` (``None`` at the root),
    ``children``, ``visits`` (rollouts that passed or ended here), ``ended`` (rollouts that ended
    here), ``judged`` and ``total`` (number and sum of the scores of those rollouts), ``prior``
    (log-probabilities of the functions that may follow, once known), ``verdict`` (where a rollout
    was judged) and ``closed`` (nothing below is left to search).

    ``start`` is the node below which the search goes on: 0, or a step that it has committed to; nodes
    above that have no room for children. ``rounds`` counts finished rounds and ``samples`` chains asked
    of the policy; both feed the random streams. ``memo`` is for what a strategy must remember beyond
    this: keep it JSON-able.
    """

    problem: Problem
    grammar: Grammar
    max_depth: int = 18
    parent: list[int] = field(factory=lambda: [-1])
    depth: list[int] = field(factory=lambda: [0])
    segment: list[Segment | None] = field(factory=lambda: [None])
    children: list[list[int]] = field(factory=lambda: [[]])
    visits: list[int] = field(factory=lambda: [0])
    ended: list[int] = field(factory=lambda: [0])
    judged: list[int] = field(factory=lambda: [0])
    total: array[float] = field(factory=lambda: array("d", [0.0]), converter=_doubles)
    prior: list[Mapping[str, float] | None] = field(factory=lambda: [None])
    verdict: list[Verdict | None] = field(factory=lambda: [None])
    closed: list[bool] = field(factory=lambda: [False])
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
        node = _number(len(self.parent))
        self.parent.append(parent)
        self.depth.append(self.depth[parent] + 1)
        self.segment.append(segment)
        self.children.append([])
        self.visits.append(0)
        self.ended.append(0)
        self.judged.append(0)
        self.total.append(0.0)
        self.prior.append(None)
        self.verdict.append(None)
        self.closed.append(False)
        self.children[parent].append(node)
        self.tokens += len(segment.ids)
        return node

    def backup(self, node: int, score: float | None, *, discount: float = 1.0) -> None:
        """Record one rollout that ended at ``node``: a visit for it and all above, and its score
        (``None`` if it was not judged), multiplied by ``discount`` once for each step upwards."""
        self.ended[node] += 1
        while node >= 0:
            self.visits[node] += 1
            if score is not None:
                self.judged[node] += 1
                self.total[node] += score
                score *= discount
            node = self.parent[node]

    def close(self, node: int) -> None:
        """Declare that nothing is left to search below ``node``."""
        self.closed[node] = True

    def close_finished(self, node: int, has_room: Callable[[int], bool]) -> bool:
        """Close a node if all its children are closed and ``has_room`` says that there will be no more,
        then its ancestors likewise; whether any was closed now."""
        found = False
        while node >= 0 and all(self.closed[child] for child in self.children[node]):
            if has_room(node):
                break
            found = found or not self.closed[node]
            self.closed[node] = True
            node = self.parent[node]
        return found

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
