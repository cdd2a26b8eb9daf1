"""The search tree: the one object that searching hands to learning.

Append-only, struct of arrays: node ``n`` is entry ``n`` of each list, node 0 is the question, and a
parent's number is smaller than its children's. A node exists only for a step that was sampled; a
legal function without a child is an edge, found in the prior.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from attrs import define, field

from rftt.interfaces import State, Step, Verdict
from rftt.problems.problem import Problem
from rftt.search.budget import Budget
from rftt.tokens.grammar import Grammar


@define(eq=False)
class SearchTree:
    """Everything that is known of one problem's search.

    Columns, one entry a node:
        parent: the parent's number, -1 at the root.
        depth: steps from the question.
        children: the children's numbers, in the order in which they came.
        step: the step; ``None`` at the root.
        visits: rollouts that passed or ended here.
        ended: rollouts that ended here.
        value_count: scored rollouts that passed or ended here.
        value_sum: the sum of their scores.
        prior: log-probability of each function that may follow, once known.
        verdict: the verifier's verdict, where a rollout was judged.
        exhausted: whether nothing below is left to search.

    Attributes:
        problem, grammar, max_depth: what is searched, and within what limits.
        start: the node below which the search goes on: 0, or a step that it has committed to.
        rounds: batched policy calls in which the tree took part.
        rollouts: completions asked of the policy. Both counts feed the random streams.
        tokens: sampled ids.
        memo: what a strategy must remember beyond this; JSON-able.
        budget: what the present search may spend. It is not saved.
    """

    problem: Problem
    grammar: Grammar
    max_depth: int = 18
    parent: list[int] = field(factory=lambda: [-1])
    depth: list[int] = field(factory=lambda: [0])
    children: list[list[int]] = field(factory=lambda: [[]])
    step: list[Step | None] = field(factory=lambda: [None])
    visits: list[int] = field(factory=lambda: [0])
    ended: list[int] = field(factory=lambda: [0])
    value_count: list[int] = field(factory=lambda: [0])
    value_sum: list[float] = field(factory=lambda: [0.0])
    prior: list[Mapping[str, float] | None] = field(factory=lambda: [None])
    verdict: list[Verdict | None] = field(factory=lambda: [None])
    exhausted: list[bool] = field(factory=lambda: [False])
    start: int = 0
    rounds: int = 0
    rollouts: int = 0
    tokens: int = 0
    memo: dict[str, Any] = field(factory=dict)
    budget: Budget = field(factory=Budget)

    def __len__(self) -> int:
        return len(self.parent)

    def attach(self, parent: int, step: Step) -> int:
        """Add a child and return its number.

        Raises:
            IndexError: if there is no node ``parent``.
            ValueError: if the parent is terminal or at the depth limit, or this function may not
                follow it.
        """
        self._check_node(parent)
        if self.is_terminal(parent):
            raise ValueError(
                f"tree {self.problem.id!r}: node {parent} ended its solution; it has no children"
            )
        if step.function not in (legal := self.legal(parent)):
            raise ValueError(
                f"tree {self.problem.id!r}: {step.function!r} may not follow node {parent}; "
                f"legal: {legal}"
            )
        if self.depth[parent] >= self.max_depth:
            raise ValueError(
                f"tree {self.problem.id!r}: node {parent} is at the depth limit {self.max_depth}"
            )
        node = len(self.parent)
        self.parent.append(parent)
        self.depth.append(self.depth[parent] + 1)
        self.children.append([])
        self.children[parent].append(node)
        self.step.append(step)
        self.visits.append(0)
        self.ended.append(0)
        self.value_count.append(0)
        self.value_sum.append(0.0)
        self.prior.append(None)
        self.verdict.append(None)
        self.exhausted.append(False)
        self.tokens += sum(step.action_mask)
        return node

    def backup(self, node: int, score: float | None, *, discount: float = 1.0) -> None:
        """Record one rollout that ended at ``node``: a visit for it and all above, and its score
        (``None`` if it was not judged), multiplied by ``discount`` once for each step upwards.

        Raises:
            IndexError: if there is no such node.
        """
        self._check_node(node)
        self.ended[node] += 1
        parent, visits = self.parent, self.visits
        if score is None:
            while node >= 0:
                visits[node] += 1
                node = parent[node]
            return
        value_count, value_sum = self.value_count, self.value_sum
        while node >= 0:
            visits[node] += 1
            value_count[node] += 1
            value_sum[node] += score
            score *= discount
            node = parent[node]

    def add_visits(self, node: int, number: int) -> None:
        """Add to the visits of a node and of all above it, without a rollout (virtual visits).

        Raises:
            IndexError: if there is no such node.
        """
        self._check_node(node)
        parent, visits = self.parent, self.visits
        while node >= 0:
            visits[node] += number
            node = parent[node]

    def mark_exhausted(self, node: int) -> None:
        """Declare that nothing is left to search below ``node``.

        Raises:
            IndexError: if there is no such node.
        """
        self._check_node(node)
        self.exhausted[node] = True

    def propagate_exhausted(self, node: int, has_room: Callable[[int], bool]) -> bool:
        """Mark a node whose children are all exhausted and that has no room for more, then its
        ancestors likewise; return whether any was marked now."""
        exhausted, found = self.exhausted, False
        while node >= 0 and all(map(exhausted.__getitem__, self.children[node])) and not has_room(node):
            found = found or not exhausted[node]
            exhausted[node] = True
            node = self.parent[node]
        return found

    def value(self, node: int) -> float | None:
        """The mean score of scored rollouts through a node, ``None`` if there is none."""
        count = self.value_count[node]
        return self.value_sum[node] / count if count else None

    def is_terminal(self, node: int) -> bool:
        """Whether nothing may follow this node's step."""
        step = self.step[node]
        return step is not None and step.terminal

    def is_finished(self, node: int) -> bool:
        """Whether the path to this node is a complete solution: its last step is terminal, and no limit
        truncated it."""
        step = self.step[node]
        return step is not None and step.terminal and not step.truncated

    def is_open(self, node: int) -> bool:
        """Whether a child could be added here."""
        return (
            node >= self.start
            and not self.exhausted[node]
            and not self.is_terminal(node)
            and self.depth[node] < self.max_depth
        )

    def legal(self, node: int) -> tuple[str, ...]:
        """Functions that may follow this node."""
        step = self.step[node]
        return self.grammar.legal(step.function if step else None)

    def path(self, node: int) -> list[int]:
        """Node numbers from the first step to ``node``; the root is left out."""
        nodes = []
        while node > 0:
            nodes.append(node)
            node = self.parent[node]
        return nodes[::-1]

    def state(self, node: int) -> State:
        """The problem and the steps down to ``node``: what a policy or a verifier sees.

        Raises:
            IndexError: if there is no such node.
        """
        self._check_node(node)
        parent, step = self.parent, self.step
        steps: list[Step] = []
        while node > 0:
            last = step[node]
            assert last is not None
            steps.append(last)
            node = parent[node]
        steps.reverse()
        return State(self.problem, tuple(steps))

    def _check_node(self, node: int) -> None:
        # A negative number would be taken for one counted from the end.
        if not 0 <= node < len(self.parent):
            raise IndexError(
                f"tree {self.problem.id!r} has no node {node}; it has 0 to {len(self.parent) - 1}"
            )

    def ends(self) -> Iterator[int]:
        """Nodes at which a rollout ended, in order of their numbers."""
        return (node for node, ended in enumerate(self.ended) if ended)

    def text(self, node: int) -> str:
        """The step's text; the question at the root."""
        step = self.step[node]
        return step.text if step else self.problem.question


def summary(trees: Sequence[SearchTree]) -> dict[str, float]:
    """Mean figures over trees: nodes, tokens, rollouts, and the mean score of scored rollouts."""
    scored = sum(tree.value_count[0] for tree in trees)
    return {
        "nodes": sum(map(len, trees)) / max(1, len(trees)),
        "tokens": sum(tree.tokens for tree in trees) / max(1, len(trees)),
        "rollouts": sum(tree.visits[0] for tree in trees) / max(1, len(trees)),
        "score": sum(tree.value_sum[0] for tree in trees) / scored if scored else 0.0,
    }
