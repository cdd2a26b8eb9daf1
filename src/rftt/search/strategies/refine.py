"""Verify, then refine: solutions whose answers are in doubt are checked and mended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from attrs import field, frozen, validators

from rftt.search.answers.voting import Equivalence, answered, group_answers, same_text
from rftt.search.searcher import Expansion, ExpansionResult, Searcher
from rftt.search.tree.tree import SearchTree

_log = logging.getLogger(__name__)

Doubt = Callable[[SearchTree, int], bool]
"""``doubt(tree, node)``: whether the answer of the solution that ends at ``node`` is in doubt."""

_REFINE: Final = "refine"


@frozen
class ScoredBelow:
    """Doubt an answer whose score by the verifier is smaller than ``threshold``. One that the verifier
    abstained from is not in doubt."""

    threshold: float = 0.5

    def __call__(self, tree: SearchTree, node: int) -> bool:
        verdict = tree.verdict[node]
        return verdict is not None and verdict.score is not None and verdict.score < self.threshold


@frozen
class Outvoted:
    """Doubt an answer that has less than ``share`` of the tree's votes.

    Attributes:
        share: a solution without an answer is in doubt whatever it is.
        equivalent: says which answers are the same, such as a verifier's ``equivalent``.
    """

    share: float = field(default=0.5, validator=[validators.gt(0), validators.le(1)])
    equivalent: Equivalence = same_text

    def __call__(self, tree: SearchTree, node: int) -> bool:
        groups = group_answers(answered(tree), self.equivalent)
        votes = next((len(group) for group in groups if any(end == node for end, _ in group)), 0)
        return votes < self.share * sum(map(len, groups)) or votes == 0


@frozen
class VerifyThenRefine(Searcher):
    """Sample solutions; go back from each whose answer is in doubt, check it and mend it.

    It is a loop of feedback and refinement (Self-Refine, Madaan et al. 2023, arXiv 2303.17651) with the
    steps of arXiv 2502.13389: a ``verify`` step is forced, then a ``refine`` step, from which the
    policy goes on to the end of a solution. That solution may be in doubt again. Ends when no answer is
    in doubt, or all were refined ``refinements`` times.

    An ``output`` step ends a solution, so the check follows the step before it, ``direct_answer`` for
    example, which has the answer already; if the grammar does not allow that, the nearest step above at
    which it does. What cannot be checked, because there is none or no room for both steps within the
    depth limit, is logged.

    Attributes:
        samples: solutions of the first round.
        refinements: most refinements of a solution, one after the other.
        doubt: which answers are in doubt: :class:`ScoredBelow`, :class:`Outvoted` or a function of one's
            own. All of a round are looked at together.
        verify: the function that checks.
        refine: the function that mends.
    """

    samples: int = field(default=4, validator=validators.ge(1))
    refinements: int = field(default=2, validator=validators.ge(1))
    doubt: Doubt = field(factory=ScoredBelow)
    verify: str = "verify"
    refine: str = "refine"

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        if _REFINE not in tree.memo:
            return [Expansion(tree.start, count=self.samples)]
        return [
            Expansion(item["node"], function=self.refine)
            if item["is_verified"]
            else Expansion(item["node"], function=self.verify, until="step")
            for item in tree.memo[_REFINE]
        ]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        # What is to be expanded next: where, whether the check is done, and the refinements before.
        first = [{"node": tree.start, "is_verified": True, "done": -1}]
        asked: list[dict[str, Any]] = tree.memo.get(_REFINE, first)
        waiting: list[dict[str, Any]] = []
        for item, result in zip(asked, results, strict=True):
            if not result.completions and _REFINE in tree.memo:
                # The budget did not reach it.
                waiting.append(item)
            for nodes in result.completions:
                if item["is_verified"]:
                    waiting += self._back(tree, nodes[-1], item["done"] + 1)
                elif tree.is_open(nodes[-1]) and self.refine in tree.legal(nodes[-1]):
                    waiting.append({**item, "node": nodes[-1], "is_verified": True})
                else:
                    _log.warning(
                        "the check at node %d of %r was cut short, or %r may not follow it; its "
                        "solution is not refined", nodes[-1], tree.problem.id, self.refine,
                    )  # fmt: skip
        tree.memo[_REFINE] = waiting
        if not waiting:
            tree.mark_exhausted(0)

    def _back(self, tree: SearchTree, end: int, done: int) -> list[dict[str, Any]]:
        """Return where a solution is to be checked, if it is in doubt and that is possible."""
        if not tree.is_terminal(end) or done >= self.refinements or not self.doubt(tree, end):
            return []
        node = tree.parent[end]
        while node >= tree.start:
            has_room = tree.is_open(node) and tree.depth[node] + 2 <= tree.max_depth
            if has_room and self.verify in tree.legal(node):
                return [{"node": node, "is_verified": False, "done": done}]
            node = tree.parent[node]
        _log.warning(
            "the answer at node %d of %r is in doubt, and %r may follow no step on its path with room "
            "for two steps more; it is not checked", end, tree.problem.id, self.verify,
        )  # fmt: skip
        return []
