"""The engine: grows many trees at once, in rounds of one batched policy call each.

A strategy is written for one tree. In each round the engine collects what every live tree asks
for, makes one policy call, attaches the steps, has the ends judged, and tells each strategy.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from random import Random

from attrs import frozen

from rftt.interfaces import Extension, Policy, Segment, Verdict, Verifier
from rftt.problems.problem import Problem
from rftt.search.budget import Budget
from rftt.search.searcher import Expansion, Growth, Searcher
from rftt.search.tree import SearchTree

OnRound = Callable[[Sequence[SearchTree], int], bool | None]
"""Called after each round with all trees and how many are finished; returning ``False`` stops."""


@frozen
class _Request:
    """One sample that one expansion of one tree asks for."""

    tree: int
    expansion: int
    extension: Extension


def run_search(
    problems: Sequence[Problem],
    searcher: Searcher,
    policy: Policy,
    verifier: Verifier,
    *,
    budget: Budget,
    seed: int = 0,
    max_depth: int = 18,
    max_tokens: int = 512,
    on_round: OnRound | None = None,
) -> list[SearchTree]:
    """Search all problems and return their trees, in order.

    Args:
        problems: what to solve; ids must be distinct, because they seed the trees' random streams.
        searcher: the strategy.
        policy: samples steps, for all live trees in one call a round.
        verifier: judges where samples end.
        budget: what each tree may spend.
        seed: with a problem's id and the policy it determines the tree, whatever else is searched
            alongside.
        max_depth: most steps from the question to an answer.
        max_tokens: most tokens in one sample.
        on_round: hook to watch or stop; trees so far are returned.

    Raises:
        ValueError: if two problems share an id, or the policy's reply breaks the grammar or a limit.
    """
    if len({problem.id for problem in problems}) != len(problems):
        ids = [problem.id for problem in problems]
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ValueError(f"two problems share the id {twice!r}: ids seed random streams and must differ")
    trees = [SearchTree(problem, policy.grammar, max_depth) for problem in problems]
    return grow(
        trees, searcher, policy, verifier,
        budget=budget, seed=seed, max_tokens=max_tokens, on_round=on_round,
    )  # fmt: skip


def grow(
    trees: list[SearchTree],
    searcher: Searcher,
    policy: Policy,
    verifier: Verifier,
    *,
    budget: Budget,
    seed: int = 0,
    max_tokens: int = 512,
    on_round: OnRound | None = None,
) -> list[SearchTree]:
    """Continue to search trees, new or loaded from a file, until the budget is spent.

    Arguments are as in :func:`run_search`. A tree continued with the same arguments ends as if it had
    never been interrupted.
    """
    deadline = budget.deadline()
    live = list(range(len(trees)))
    known = [0] * len(trees)
    while True:
        live = [i for i in live if not budget.is_spent(trees[i]) and not searcher.is_done(trees[i])]
        if not live or time.monotonic() >= deadline:
            return trees
        if searcher.needs_prior:
            _fill_priors(trees, live, known, policy)
        asked: dict[int, list[Expansion]] = {}
        requests: list[_Request] = []
        for i in live:
            tree = trees[i]
            expansions = list(searcher.ask(tree, Random(f"{seed}/{tree.problem.id}/{tree.rounds}")))
            if expansions:
                asked[i] = expansions
                requests += _requests(tree, i, expansions, budget, seed, max_tokens)
        live = list(asked)
        if not requests:
            return trees
        chains = policy.extend([request.extension for request in requests])
        _settle(trees, asked, requests, chains, searcher, verifier)
        if on_round is not None and on_round(trees, len(trees) - len(live)) is False:
            return trees


def _requests(
    tree: SearchTree, index: int, expansions: list[Expansion], budget: Budget, seed: int, max_tokens: int
) -> list[_Request]:
    """One request a sample, cut to what the budget leaves."""
    wanted = [e for e, expansion in enumerate(expansions) for _ in range(expansion.count)]
    granted = wanted[: budget.samples_left(tree, len(wanted))]
    requests = []
    for e in granted:
        expansion = expansions[e]
        if not tree.is_open(expansion.node):
            raise ValueError(
                f"the searcher asks to grow node {expansion.node} of {tree.problem.id!r}, which is "
                "terminal, closed or at the depth limit"
            )
        depth_left = tree.max_depth - tree.depth[expansion.node]
        extension = Extension(
            state=tree.state(expansion.node),
            seed=_sample_seed(seed, tree.problem.id, tree.samples),
            function=expansion.function,
            until=expansion.until,
            max_steps=budget.steps_each(tree, len(granted), depth_left),
            max_tokens=budget.tokens_each(tree, len(granted), max_tokens),
            prefix=expansion.prefix,
        )
        tree.samples += 1
        requests.append(_Request(index, e, extension))
    return requests


def _sample_seed(seed: int, problem: str, sample: int) -> int:
    """63 bits from (run, problem, number of the sample in its tree)."""
    digest = hashlib.blake2b(f"{seed}/{problem}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _fill_priors(trees: list[SearchTree], live: list[int], known: list[int], policy: Policy) -> None:
    """Ask for priors of nodes that lack one; nodes below ``known`` have been seen to already."""
    missing: list[tuple[SearchTree, int]] = []
    for i in live:
        tree = trees[i]
        new = range(known[i], len(tree))
        missing += [(tree, n) for n in new if tree.prior[n] is None and tree.is_open(n)]
        known[i] = len(tree)
    if missing:
        priors = policy.prior([tree.state(node) for tree, node in missing])
        for (tree, node), prior in zip(missing, priors, strict=True):
            tree.prior[node] = prior


def _settle(
    trees: list[SearchTree],
    asked: dict[int, list[Expansion]],
    requests: list[_Request],
    chains: list[list[Segment]],
    searcher: Searcher,
    verifier: Verifier,
) -> None:
    """Attach the sampled steps, judge the ends, tell the strategies."""
    grown: dict[int, list[list[tuple[int, ...]]]] = {i: [[] for _ in e] for i, e in asked.items()}
    ends: dict[int, list[int]] = {i: [] for i in asked}
    for request, chain in zip(requests, chains, strict=True):
        tree, expansion = trees[request.tree], asked[request.tree][request.expansion]
        _check_reply(request.extension, chain, tree)
        node, nodes = expansion.node, []
        for segment in chain:
            node = tree.attach(node, segment)
            nodes.append(node)
        grown[request.tree][request.expansion].append(tuple(nodes))
        if expansion.until == "answer" or tree.is_terminal(node):
            ends[request.tree].append(node)
    for i, expansions in asked.items():
        tree = trees[i]
        verdicts = (
            verifier.judge(tree.problem, [tree.solution(node) for node in ends[i]]) if ends[i] else []
        )
        for node, verdict in zip(ends[i], verdicts, strict=True):
            tree.verdict[node] = verdict
        growths = [
            Growth(expansion, tuple(sampled), tuple(_score(tree.verdict[c[-1]]) for c in sampled))
            for expansion, sampled in zip(expansions, grown[i], strict=True)
        ]
        tree.rounds += 1
        searcher.tell(tree, growths)


def _score(verdict: Verdict | None) -> float | None:
    return None if verdict is None else verdict.score


def _check_reply(extension: Extension, chain: list[Segment], tree: SearchTree) -> None:
    place = f"the policy's reply for {tree.problem.id!r}"
    if not 1 <= len(chain) <= extension.max_steps:
        raise ValueError(f"{place} has {len(chain)} steps; asked for 1 to {extension.max_steps}")
    if sum(len(segment.ids) for segment in chain) > extension.max_tokens:
        raise ValueError(f"{place} has more than the {extension.max_tokens} tokens that were allowed")
    if extension.function is not None and chain[0].function != extension.function:
        raise ValueError(f"{place} opens with {chain[0].function!r}; asked for {extension.function!r}")
    if extension.until == "step" and len(chain) > 1:
        raise ValueError(f"{place} has {len(chain)} steps; asked for one")
