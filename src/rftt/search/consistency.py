"""Mutual consistency: a second opinion on how each solution goes on."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rftt.interfaces import Extension, Policy, Solution, State, Verifier
from rftt.search.answers import answered, weighted
from rftt.search.rounds import seed_from
from rftt.search.tree import SearchTree


def mutually_consistent(
    trees: Sequence[SearchTree],
    policy: Policy,
    verifier: Verifier,
    *,
    kept: float = 0.5,
    seed: int = 0,
    max_tokens: int = 512,
) -> list[str | None]:
    """One answer a tree, by votes of solutions that a second policy agrees with (rStar, Qi et al. 2024).

    Each rollout that reached an answer is cut after a share of its steps, and ``policy``, best another
    model than the one that searched, finishes it. The rollout's vote counts where it comes to the same
    answer, by the verifier's rule. Where it never does, the plain vote decides. Gold answers are not
    read.

    Args:
        trees: searched trees.
        policy: finishes the cut solutions; it must read the steps of the policy that made them.
        verifier: extracts and compares answers.
        kept: share of the steps that is kept, rounded down.
        seed: of the completions.
        max_tokens: in one completion.

    Raises:
        ValueError: if ``kept`` is not in [0, 1).
    """
    if not 0 <= kept < 1:
        raise ValueError(f"kept is the share of steps that is shown, in [0, 1), not {kept}")
    places = [(number, node) for number, tree in enumerate(trees) for node in dict(answered(tree))]
    requests = [_completion(trees[number], node, kept, seed, max_tokens) for number, node in places]
    chains = policy.extend(requests) if requests else []
    agreed: set[tuple[int, int]] = set()
    for (number, node), request, chain in zip(places, requests, chains, strict=True):
        solution = Solution((*request.state.steps, *chain))
        (verdict,) = verifier.judge(trees[number].problem, [solution])
        first = trees[number].verdict[node]
        if first is not None and verdict.answer is not None and verdict.answer == first.answer:
            agreed.add((number, node))
    return [_vote(tree, {n for which, n in agreed if which == i}) for i, tree in enumerate(trees)]


def _vote(tree: SearchTree, agreed: Collection[int]) -> str | None:
    return weighted(tree, lambda _, node: float(not agreed or node in agreed))


def _completion(tree: SearchTree, node: int, kept: float, seed: int, max_tokens: int) -> Extension:
    steps = tree.solution(node).steps
    shown = steps[: int(kept * len(steps))]
    return Extension(
        state=State(tree.problem, shown),
        seed=seed_from(f"completion/{seed}/{tree.problem.id}/{node}"),
        max_steps=tree.max_depth - len(shown),
        max_tokens=max_tokens,
    )
