"""Tree of Thoughts, breadth first: the best states of each level, by values or by votes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from attrs import field, frozen, validators

from rftt.search.scores import NodeScore, score_node, verifier_score, without_copies
from rftt.search.searcher import Expansion, ExpansionResult, Searcher
from rftt.search.tree.tree import SearchTree

Evaluation = Callable[[SearchTree, Sequence[int], Random], Sequence[float]]
"""``evaluate(tree, states, rng)``: a number for each state; larger is better."""

Ballot = Callable[[SearchTree, Sequence[int], Random], int]
"""``ballot(tree, states, rng)``: the place of the state that one voter prefers."""

_STATES: Final = "thoughts"


@frozen
class Value:
    """Evaluate each state by itself (strategy "value" of the paper).

    Attributes:
        score: of a state, such as a process reward model's through ``verifier_score``.
    """

    score: NodeScore = verifier_score

    def __call__(self, tree: SearchTree, states: Sequence[int], rng: Random) -> Sequence[float]:
        return [score_node(self.score, tree, state) for state in states]


@frozen
class Vote:
    """Evaluate states by comparing them: the number of votes for each (strategy "vote" of the paper).

    Attributes:
        ballot: asks one voter. In the paper that is a language model that is shown all states; such a
            ballot must depend on its arguments alone, so seed the model from ``rng``.
        votes: how many are asked.
    """

    ballot: Ballot
    votes: int = field(default=5, validator=validators.ge(1))

    def __call__(self, tree: SearchTree, states: Sequence[int], rng: Random) -> Sequence[float]:
        count = Counter(self.ballot(tree, states, rng) for _ in range(self.votes))
        if outside := count.keys() - range(len(states)):
            raise ValueError(
                f"the ballot voted for state {min(outside)} of {len(states)}; return a place, from 0"
            )
        return [float(count[place]) for place in range(len(states))]


@frozen
class SoftmaxBallot:
    """A voter without a language model: prefers a state with probability in proportion to
    ``exp(score / temperature)``. States without a score get no vote as long as others have one."""

    score: NodeScore = verifier_score
    temperature: float = field(default=1.0, validator=validators.gt(0))

    def __call__(self, tree: SearchTree, states: Sequence[int], rng: Random) -> int:
        scores = [score_node(self.score, tree, state) for state in states]
        best = max(scores)
        if best == -math.inf:
            return rng.randrange(len(states))
        weights = [math.exp((score - best) / self.temperature) for score in scores]
        return rng.choices(range(len(states)), weights)[0]


@frozen
class TreeOfThoughts(Searcher):
    """Keep the ``breadth`` best states of each level (ToT-BFS, algorithm 1 of Yao et al. 2023, arXiv
    2305.10601).

    Each kept state is expanded by ``samples`` thoughts, which are samples of one step. All new states
    are evaluated together, and the best are kept. In the paper all solutions have the same number of
    thoughts. Here they may differ: a finished solution stays among the states as it is and keeps its
    place only against the new ones. Of states that are copies, one counts. Ends when all that are kept
    are finished.

    Attributes:
        breadth: states kept, ``b`` in the paper.
        samples: thoughts a state, ``k`` in the paper.
        evaluate: :class:`Value`, :class:`Vote`, or a function of one's own.
        scores_partial: whether the verifier judges each step, so that ``evaluate`` can read its verdict.
    """

    breadth: int = field(default=5, validator=validators.ge(1))
    samples: int = field(default=5, validator=validators.ge(1))
    evaluate: Evaluation = field(factory=Value)
    scores_partial: bool = True

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        states = without_copies(tree, tree.memo.get(_STATES, [tree.start]))
        if len(states) > self.breadth:
            values = self.evaluate(tree, states, rng)
            order = sorted(range(len(states)), key=lambda place: -values[place])
            states = [states[place] for place in order[: self.breadth]]
        tree.memo[_STATES] = [state for state in states if not tree.is_open(state)]
        growing = [state for state in states if tree.is_open(state)]
        if not growing:
            tree.mark_exhausted(0)
        return [Expansion(state, count=self.samples, until="step") for state in growing]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        tree.memo[_STATES] += [nodes[-1] for result in results for nodes in result.completions]
