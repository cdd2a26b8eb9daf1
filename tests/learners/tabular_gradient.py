"""Policy gradients of finite problems in plain Python: exact by enumeration, and estimated from trees.

The policy's parameters are tables of logits: at each path one logit a function, and at each path and
function one logit a body. ``d log pi(a) / d logit(b) = [a = b] - pi(b)``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from random import Random

from rftt.interfaces import Step, Verdict
from rftt.learners.credit.paths import PathCredit
from rftt.problems.problem import Problem
from rftt.search.tree.tree import SearchTree
from rftt.testing.finite.problem import FiniteProblem, leaves
from rftt.testing.finite.tabular import Reply, TabularPolicy
from rftt.tokens.grammar import Function, Grammar

Gradient = dict[tuple[object, ...], float]
GRAMMAR = Grammar(
    [Function(name, f"do {name}") for name in ("a", "b", "end")],
    start=("a", "b", "end"),
    followers=dict.fromkeys(("a", "b"), ("a", "b", "end")),
)


class OpenerPolicy(TabularPolicy):
    """A tabular policy whose steps are two ids, an opener and a body, as with functional tokens: the
    opener of a function that the searcher forces is no action."""

    def _sample(
        self, path: tuple[str, ...], function: str | None, prefix: tuple[int, ...], rng: Random
    ) -> Step:
        mass = {name: math.exp(p) for name, p in self._prior(path).items()}
        name = function or rng.choices(list(mass), list(mass.values()))[0]
        own = [reply for reply in self.replies(path) if reply.function == name]
        reply = rng.choices(own, [reply.probability for reply in own])[0]
        return Step(
            name,
            reply.text,
            ids=(list(self.grammar.functions).index(name), 100 + own.index(reply)),
            log_probs=(math.log(mass[name]), math.log(reply.probability / mass[name])),
            action_mask=(function is None, True),
            terminal=(*path, reply.text) not in self.table,
            body_start=1,
        )


def random_problem(seed: int, depth: int = 3) -> FiniteProblem:
    """Make a problem of up to ``depth`` steps of two to six replies each; ends are right or wrong."""
    rng = Random(seed)
    table: dict[tuple[str, ...], list[Reply]] = {}

    def fill(path: tuple[str, ...], left: int) -> None:
        functions = ("end",) if left == 1 else ("a", "b", "end") if path else ("a", "b")
        weights = [(name, f"{name}{i}", rng.uniform(0.2, 1.2)) for name in functions for i in range(2)]
        total = sum(weight for *_, weight in weights)
        table[path] = [Reply(name, text, weight / total) for name, text, weight in weights]
        for name, text, _ in weights:
            if name != "end":
                fill((*path, text), left - 1)

    fill((), depth)
    policy = OpenerPolicy(GRAMMAR, table)
    merit: dict[tuple[str, ...], float] = {}
    verdicts = {}
    for leaf in leaves(policy):
        for length in range(1, len(leaf) + 1):
            merit.setdefault(leaf[:length], rng.gauss(0, 1))
        verdicts[leaf] = Verdict(float(sum(merit[leaf[:n]] for n in range(1, len(leaf) + 1)) > 0.3))
    return FiniteProblem(policy, verdicts)


@cache
def _log_prob_gradient(
    policy: TabularPolicy, path: tuple[str, ...], function: str, text: str
) -> Gradient:
    mass = {name: math.exp(p) for name, p in policy._prior(path).items()}
    gradient: Gradient = {(path, name): (name == function) - p for name, p in mass.items()}
    for reply in policy.replies(path):
        if reply.function == function:
            share = reply.probability / mass[function]
            gradient[path, function, reply.text] = (reply.text == text) - share
    return gradient


def exact_gradient(problem: FiniteProblem) -> Gradient:
    """Return the gradient of the expected score, by going through all ends."""
    total: Gradient = defaultdict(float)
    policy = problem.policy
    for leaf in problem.leaves:
        probability, gradient = 1.0, Gradient()
        for place, text in enumerate(leaf):
            reply = next(r for r in policy.replies(leaf[:place]) if r.text == text)
            probability *= reply.probability
            gradient |= _log_prob_gradient(policy, leaf[:place], reply.function, text)
        for key, value in gradient.items():
            total[key] += probability * (problem.verdicts[leaf].score or 0.0) * value
    return total


def estimated_gradient(
    policy: TabularPolicy,
    trees: Sequence[SearchTree],
    credits: Sequence[Sequence[PathCredit]],
    *,
    learn_forced: bool = False,
) -> Gradient:
    """Return ``mean over trees of sum(weight * advantage * grad log pi) / rollouts``.

    Args:
        policy: the policy.
        trees: its trees.
        credits: the credit of their paths.
        learn_forced: whether forced openers are learned from, as if they had been sampled.
    """
    total: Gradient = defaultdict(float)
    for tree, paths in zip(trees, credits, strict=True):
        rollouts = sum(credit.count for credit in paths)
        for credit in paths:
            texts: tuple[str, ...] = ()
            steps = zip(tree.path(credit.end), credit.advantages, credit.weights, strict=True)
            for node, advantage, weight in steps:
                step = tree.step[node]
                assert step is not None
                scale = weight * advantage / rollouts / len(trees)
                for key, value in _log_prob_gradient(policy, texts, step.function, step.text).items():
                    if len(key) == 3 or step.action_mask[0] or learn_forced:
                        total[key] += scale * value
                texts = (*texts, step.text)
    return total


def cosine(a: Mapping[tuple[object, ...], float], b: Mapping[tuple[object, ...], float]) -> float:
    """Return the cosine of the angle between two gradients."""
    product = sum(value * b.get(key, 0.0) for key, value in a.items())
    return product / math.hypot(*a.values()) / math.hypot(*b.values())


Nested = float | Sequence["Nested"]
"""A solution that ended with a score, or the children of a step."""


def tree_of(children: Sequence[Nested], question: str = "?") -> SearchTree:
    """Build the tree of some nested children: inner steps are ``a``, ends are ``end``."""
    tree = SearchTree(Problem(question, question), GRAMMAR)

    def grow(parent: int, children: Sequence[Nested]) -> None:
        for child in children:
            is_end = isinstance(child, (int, float))
            name = "end" if is_end else "a"
            node = tree.attach(parent, Step(name, name, (1,), (-1.0,), (True,), terminal=is_end))
            if isinstance(child, (int, float)):
                tree.verdict[node] = Verdict(float(child))
                tree.backup(node, float(child))
            else:
                grow(node, child)

    grow(0, children)
    return tree
