"""Mutual consistency: a second opinion on how each solution goes on."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from rftt.interfaces import GenerationRequest, Policy, State, Verifier
from rftt.search.answers.voting import answered, weighted
from rftt.search.seeding import seed_from
from rftt.search.tree.tree import SearchTree
from rftt.search.verdicts import check_verdicts

_log = logging.getLogger(__name__)


def mutually_consistent(
    trees: Sequence[SearchTree],
    policy: Policy,
    verifier: Verifier,
    *,
    kept: float = 0.5,
    seed: int = 0,
    max_tokens: int = 512,
) -> list[str | None]:
    """Choose one answer a tree by votes of the solutions that a second policy agrees with (rStar, Qi et
    al. 2024).

    Each solution that reached an answer is cut after a share of its steps, and ``policy``, best another
    model than the one that searched, completes it. The solution's rollouts vote where the completion
    comes to an equivalent answer. Where none does, all vote. Gold answers are not read by this
    function. All completions are sampled in one policy call and judged in one verifier call.

    Args:
        trees: searched trees.
        policy: completes the cut solutions; it must read the steps of the policy that made them.
        verifier: extracts answers and decides which are equivalent.
        kept: share of the steps that is kept, rounded down.
        seed: of the completions.
        max_tokens: most sampled ids in one completion. A completion that needs more agrees with none.

    Raises:
        ValueError: if ``kept`` is not in [0, 1).
    """
    if not 0 <= kept < 1:
        raise ValueError(f"kept is the share of steps that is shown, in [0, 1), not {kept}")
    places = [(number, node) for number, tree in enumerate(trees) for node in dict(answered(tree))]
    requests = [_request(trees[number], node, kept, seed, max_tokens) for number, node in places]
    completions = policy.extend(requests) if requests else []
    complete = [
        (place, State(request.state.problem, (*request.state.steps, *steps)))
        for place, request, steps in zip(places, requests, completions, strict=True)
        if steps[-1].terminal and not steps[-1].truncated
    ]
    if len(complete) < len(places):
        unfinished = len(places) - len(complete)
        _log.info("%d of %d completions reached no end; they agree with none", unfinished, len(places))
    verdicts = check_verdicts(verifier, [state for _, state in complete]) if complete else []
    agreed: list[set[int]] = [set() for _ in trees]
    for ((number, node), _), second in zip(complete, verdicts, strict=True):
        first = trees[number].verdict[node]
        if first is None or first.answer is None or second.answer is None:
            continue
        if verifier.equivalent(first.answer, second.answer) is True:
            agreed[number].add(node)
    return [_vote(tree, nodes, verifier) for tree, nodes in zip(trees, agreed, strict=True)]


def _vote(tree: SearchTree, agreed: Collection[int], verifier: Verifier) -> str | None:
    return weighted(tree, lambda _, node: float(not agreed or node in agreed), verifier.equivalent)


def _request(tree: SearchTree, node: int, kept: float, seed: int, max_tokens: int) -> GenerationRequest:
    steps = tree.state(node).steps
    shown = steps[: int(kept * len(steps))]
    return GenerationRequest(
        state=State(tree.problem, shown),
        seed=seed_from(f"completion/{seed}/{tree.problem.id}/{node}"),
        max_steps=tree.max_depth - len(shown),
        max_tokens=max_tokens,
    )
