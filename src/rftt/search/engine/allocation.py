"""How a tree's budget is shared among the completions of a round.

A budget of nodes or tokens buys complete solutions first: each is given all the room that it may need,
as far as the budget goes, and what is left over buys more once their lengths are known. Only where the
budget no longer covers the needs of a single one may a completion be cut.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from rftt.search.budget import Budget
from rftt.search.searcher import Expansion
from rftt.search.tree.tree import SearchTree


@frozen
class Allowance:
    """The limits of one completion; ``reduced`` if the budget made them smaller."""

    max_steps: int
    max_tokens: int
    reduced: bool


def has_budget(tree: SearchTree, budget: Budget) -> bool:
    """Whether a tree may ask for another completion."""
    return (
        (budget.rollouts is None or tree.rollouts < budget.rollouts)
        and (budget.policy_calls is None or tree.rounds < budget.policy_calls)
        and (budget.nodes is None or len(tree) - 1 < budget.nodes)
        and (budget.tokens is None or tree.tokens < budget.tokens)
    )


def most_completions(tree: SearchTree) -> int | None:
    """Return how many completions the rest of a tree's budget can buy; ``None`` if it does not say.

    Each takes a rollout, and a node at the least. One without a sampled token takes none; of those, no
    more are bought than tokens are left.
    """
    budget = tree.budget
    left = [
        limit - spent
        for limit, spent in (
            (budget.rollouts, tree.rollouts),
            (budget.nodes, len(tree) - 1),
            (budget.tokens, tree.tokens),
        )
        if limit is not None
    ]
    return max(0, min(left)) if left else None


def allocate(
    tree: SearchTree, budget: Budget, max_tokens: int, wanted: Sequence[Expansion]
) -> list[Allowance]:
    """Give limits to the first of the wanted completions, as many as one policy call may sample.

    Args:
        tree: what was spent so far.
        budget: what may be spent.
        max_tokens: most sampled ids in one completion.
        wanted: the expansion of each wanted completion, in order.
    """
    if not has_budget(tree, budget):
        return []
    if budget.rollouts is not None:
        wanted = wanted[: budget.rollouts - tree.rollouts]
    if budget.nodes is None and budget.tokens is None:
        return [Allowance(_steps(tree, expansion), max_tokens, False) for expansion in wanted]
    nodes = None if budget.nodes is None else budget.nodes - len(tree) + 1
    tokens = None if budget.tokens is None else budget.tokens - tree.tokens
    allowances: list[Allowance] = []
    for expansion in wanted:
        steps = _steps(tree, expansion)
        reduced = (nodes is not None and nodes < steps) or (tokens is not None and tokens < max_tokens)
        if reduced and allowances:
            break
        max_steps = steps if nodes is None else min(steps, nodes)
        most_tokens = max_tokens if tokens is None else min(max_tokens, tokens)
        allowances.append(Allowance(max_steps, most_tokens, reduced))
        nodes = None if nodes is None else nodes - max_steps
        tokens = None if tokens is None else tokens - most_tokens
        if nodes == 0 or tokens == 0:
            break
    return allowances


def _steps(tree: SearchTree, expansion: Expansion) -> int:
    return 1 if expansion.until == "step" else tree.max_depth - tree.depth[expansion.node]
