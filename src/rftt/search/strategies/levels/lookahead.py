"""Lookahead search: a beam whose steps are scored by where they lead."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final

from attrs import field, frozen, validators

from rftt.search.scores import NodeScore, score_node, verifier_score, without_copies
from rftt.search.searcher import Expansion, ExpansionResult, Searcher
from rftt.search.strategies.levels.beam import even_shares
from rftt.search.tree.tree import SearchTree

_BEAM: Final = "lookahead"


@frozen
class LookaheadSearch(Searcher):
    """Search by a beam that looks ahead (Snell et al. 2024, arXiv 2408.03314).

    The paths of the beam are expanded by ``width * branching`` samples of one step, as
    :class:`~rftt.search.strategies.levels.beam.BeamSearch` shares them. From each new step one rollout
    goes up to ``steps_ahead`` steps further, or to the end of its solution; the score of where it ends
    is the score of the step. The ``width`` best unfinished steps are the next beam; rollouts stay on the
    tree, but the beam does not go on from them. With ``steps_ahead=0`` this is beam search. Ends when no
    unfinished step is left.

    The paper decodes rollouts at temperature 0. Here they are samples like all others: a policy that
    decodes greedily would also do so for the beam.

    Attributes:
        width: paths kept.
        branching: samples a path of a full beam.
        steps_ahead: steps of a rollout, ``k`` in the paper.
        score: of where a rollout ends, such as a process reward model's through ``verifier_score``.
        scores_partial: whether the verifier judges each step, so that ``score`` can read its verdict.
    """

    width: int = field(default=4, validator=validators.ge(1))
    branching: int = field(default=4, validator=validators.ge(1))
    steps_ahead: int = field(default=1, validator=validators.ge(0))
    score: NodeScore = verifier_score
    scores_partial: bool = True

    def ask(self, tree: SearchTree, rng: Random) -> Sequence[Expansion]:
        memo = _memo(tree)
        if memo["ahead"]:
            heads = [head for _, head in memo["steps"] if tree.is_open(head)]
            return [Expansion(head, until="step") for head in heads]
        shares = even_shares(self.width * self.branching, len(memo["beam"]))
        return [
            Expansion(node, count=count, until="step")
            for node, count in zip(memo["beam"], shares, strict=True)
        ]

    def tell(self, tree: SearchTree, results: Sequence[ExpansionResult]) -> None:
        super().tell(tree, results)
        memo = _memo(tree)
        if memo["ahead"]:
            moved = {r.expansion.node: nodes[-1] for r in results for nodes in r.completions}
            memo["steps"] = [[step, moved.get(head, head)] for step, head in memo["steps"]]
            memo["ahead"] -= 1
        else:
            ends = [nodes[-1] for result in results for nodes in result.completions]
            unfinished = [node for node in without_copies(tree, ends) if tree.is_open(node)]
            memo["steps"] = [[node, node] for node in unfinished]
            memo["ahead"] = self.steps_ahead
        if not any(tree.is_open(head) for _, head in memo["steps"]):
            memo["ahead"] = 0
        if not memo["ahead"]:
            ranked = sorted(memo["steps"], key=lambda pair: -score_node(self.score, tree, pair[1]))
            memo["beam"] = [step for step, _ in ranked[: self.width]]
            if not memo["beam"]:
                tree.mark_exhausted(0)


def _memo(tree: SearchTree) -> dict[str, Any]:
    """Return the beam; the steps that are scored, each with where its rollout has come to; and for how
    many steps the rollouts still go on."""
    memo: dict[str, Any] = tree.memo.setdefault(_BEAM, {"beam": [tree.start], "steps": [], "ahead": 0})
    return memo
