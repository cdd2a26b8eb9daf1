"""One round of a search: what live trees ask for, and what becomes of the replies."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random
from typing import Any

from attrs import field, frozen

from rftt.interfaces import Extension, Segment, Solution
from rftt.problems.problem import Problem
from rftt.search.budget import Budget
from rftt.search.searcher import Expansion, Growth, Searcher
from rftt.search.sources import Source
from rftt.search.tree import SearchTree


class LateRandom(Random):
    """A stream of random numbers that is seeded when the first is drawn: seeding takes as long as a
    whole way down a tree, and most strategies draw nothing in most rounds."""

    _text: str | None = None

    def restart(self, text: str) -> None:
        """Begin the stream that is ``Random(seed_from(text))``."""
        self._text, self.gauss_next = text, None

    def random(self) -> float:
        self._begin()
        return super().random()

    def getrandbits(self, k: int) -> int:
        self._begin()
        return super().getrandbits(k)

    def getstate(self) -> tuple[Any, ...]:
        self._begin()
        return super().getstate()

    def _begin(self) -> None:
        if self._text is not None:
            self.seed(seed_from(self._text))
            self._text = None


@frozen
class Asked:
    """What one tree asks for in one round; ``owners`` has the expansion of each request."""

    tree: SearchTree
    expansions: Sequence[Expansion]
    owners: list[int]
    requests: list[Extension]


@frozen
class Rounds:
    """The arguments that all trees share, and one round's work on them."""

    searcher: Searcher
    budget: Budget
    seed: int
    max_tokens: int
    _rng: LateRandom = field(factory=LateRandom, init=False)
    _seen: dict[str, int] = field(factory=dict, init=False)
    """For each problem, how many of its nodes were looked at for a missing prior."""

    def ask(
        self, live: list[SearchTree], waiting: list[SearchTree], at_once: int, source: Source
    ) -> list[Asked]:
        """The wishes of trees that go on; trees that are finished are replaced."""
        asked: list[Asked] = []
        while live or (waiting and len(asked) < at_once):
            while waiting and len(asked) + len(live) < at_once:
                live.append(waiting.pop())
            going = [t for t in live if not self.budget.is_spent(t) and not self.searcher.is_done(t)]
            if self.searcher.needs_prior:
                self._fill_priors(going, source)
            for tree in going:
                if (wish := self._ask_tree(tree)) is not None:
                    asked.append(wish)
            live = []
        return asked

    def _ask_tree(self, tree: SearchTree) -> Asked | None:
        key = f"{self.seed}/{tree.problem.id}/"
        self._rng.restart(f"{key}{tree.rounds}/ask")
        expansions = self.searcher.ask(tree, self._rng)
        wanted = [e for e, expansion in enumerate(expansions) for _ in range(expansion.count)]
        owners = wanted[: self.budget.samples_left(tree, len(wanted))]
        if not owners:
            return None
        tokens = self.budget.tokens_each(tree, len(owners), self.max_tokens)
        requests = []
        for e in owners:
            expansion = expansions[e]
            node = expansion.node
            if not tree.is_open(node):
                raise ValueError(
                    f"the searcher asks to grow node {node} of {tree.problem.id!r}, which is "
                    "terminal, closed, at the depth limit or above the step that was committed to"
                )
            depth_left = tree.max_depth - tree.depth[node]
            requests.append(
                Extension(
                    state=tree.state(node),
                    seed=seed_from(f"{key}{tree.samples}"),
                    function=expansion.function,
                    until=expansion.until,
                    max_steps=self.budget.steps_each(tree, len(owners), depth_left),
                    max_tokens=tokens,
                    prefix=expansion.prefix,
                )
            )
            tree.samples += 1
        return Asked(tree, expansions, owners, requests)

    def _fill_priors(self, trees: Sequence[SearchTree], source: Source) -> None:
        missing: list[tuple[SearchTree, int]] = []
        for tree in trees:
            new = range(self._seen.get(tree.problem.id, 0), len(tree))
            missing += [(tree, n) for n in new if tree.prior[n] is None and tree.is_open(n)]
            self._seen[tree.problem.id] = len(tree)
        if missing:
            priors = source.priors([tree.state(node) for tree, node in missing])
            for (tree, node), prior in zip(missing, priors, strict=True):
                tree.prior[node] = prior

    def settle(self, asked: Sequence[Asked], source: Source) -> None:
        """Sample for all trees at once, attach the steps, have the ends judged, tell the strategy."""
        requests = [request for wish in asked for request in wish.requests]
        replies = source.chains(requests)
        if len(replies) != len(requests):
            raise ValueError(
                f"{len(replies)} replies to {len(requests)} requests; if they are those of a run "
                "directory, its policy, verifier or strategy was another: choose another folder"
            )
        chains = iter(replies)
        for wish in asked:
            tree = wish.tree
            grown: list[list[tuple[int, ...]]] = [[] for _ in wish.expansions]
            ends: list[int] = []
            solutions: list[Solution] = []
            for owner, request, chain in zip(wish.owners, wish.requests, chains, strict=False):
                _check_reply(request, chain, tree)
                node, nodes = wish.expansions[owner].node, []
                for segment in chain:
                    node = tree.attach(node, segment)
                    nodes.append(node)
                grown[owner].append(tuple(nodes))
                if request.until == "answer" or self.searcher.judges_steps or tree.is_terminal(node):
                    ends.append(node)
                    solutions.append(Solution((*request.state.steps, *chain)))
            if ends:
                verdicts = source.verdicts(tree.problem, solutions)
                for node, verdict in zip(ends, verdicts, strict=True):
                    tree.verdict[node] = verdict
            tree.rounds += 1
            self.searcher.tell(
                tree,
                [
                    Growth(expansion, tuple(nodes), tuple(_score(tree, n[-1]) for n in nodes))
                    for expansion, nodes in zip(wish.expansions, grown, strict=True)
                ],
            )


def distinct_ids(problems: Sequence[Problem]) -> list[str]:
    """The ids of problems; raises ``ValueError`` naming one that two of them share."""
    ids = [problem.id for problem in problems]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ValueError(f"two problems share the id {twice!r}: ids seed random streams and must differ")
    return ids


def seed_from(text: str) -> int:
    """63 bits that depend on all of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _score(tree: SearchTree, node: int) -> float | None:
    verdict = tree.verdict[node]
    return None if verdict is None else verdict.score


def _check_reply(request: Extension, chain: Sequence[Segment], tree: SearchTree) -> None:
    if not 1 <= len(chain) <= request.max_steps:
        wrong = f"has {len(chain)} steps; asked for 1 to {request.max_steps}"
    elif sum([len(segment.ids) for segment in chain]) > request.max_tokens:
        wrong = f"has more than the {request.max_tokens} tokens that were allowed"
    elif request.function is not None and chain[0].function != request.function:
        wrong = f"opens with {chain[0].function!r}; asked for {request.function!r}"
    elif request.until == "step" and len(chain) > 1:
        wrong = f"has {len(chain)} steps; asked for one"
    else:
        return
    raise ValueError(f"the policy's reply for {tree.problem.id!r} {wrong}")
