"""The engine without rounds in common: each tree goes on as soon as its own requests are done.

Where samples differ much in length, an engine that waits for the longest leaves most of a batch empty.
A tree's own rounds are as they were, and so is the tree.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from attrs import define, field

from rftt.interfaces import Policy, Segment, Verifier
from rftt.problems.problem import Problem
from rftt.search.budget import Budget
from rftt.search.engine import OnRound
from rftt.search.rounds import Asked, Rounds, distinct_ids
from rftt.search.searcher import Searcher
from rftt.search.sources import Fresh, Streamed
from rftt.search.tree import SearchTree


@define(eq=False)
class _UnderWay:
    """One tree's round: the chains that are there, by place, of those that it asked for."""

    asked: Asked
    chains: dict[int, Sequence[Segment]] = field(factory=dict)

    @property
    def is_done(self) -> bool:
        return len(self.chains) == len(self.asked.requests)


def stream_search(
    problems: Sequence[Problem],
    searcher: Searcher,
    policy: Policy,
    verifier: Verifier,
    *,
    budget: Budget,
    seed: int = 0,
    max_depth: int = 18,
    max_tokens: int = 512,
    at_once: int | None = None,
    on_round: OnRound | None = None,
) -> list[SearchTree]:
    """Search all problems and return their trees, in order: those of
    :func:`rftt.search.engine.run_search` with the same arguments, sooner.

    There is no ``folder``: what a killed search would resume from is a round of all trees. ``on_round``
    is called whenever trees have been told; once it returns ``False``, or the budget's seconds are
    over, no tree begins another round.

    Raises ``ValueError`` as ``run_search`` does.
    """
    distinct_ids(problems)
    trees = [SearchTree(problem, policy.grammar, max_depth) for problem in problems]
    rounds, stream = Rounds(searcher, budget, seed, max_tokens), policy.stream()
    deadline, goes_on = budget.deadline(), True
    ready: list[SearchTree] = []
    waiting = list(reversed(trees))
    running: dict[int, tuple[_UnderWay, int]] = {}
    live = added = 0
    while True:
        if goes_on and time.monotonic() < deadline:
            room = (at_once or len(trees)) - live
            asked = rounds.ask(ready, waiting, room, Fresh(policy, verifier))
            live += len(asked)
            for wish in asked:
                under_way = _UnderWay(wish)
                for place, request in enumerate(wish.requests):
                    running[added] = under_way, place
                    stream.add(added, request)
                    added += 1
        if not running:
            return trees
        ready = []
        for key, chain in stream.collect():
            under_way, place = running.pop(key)
            under_way.chains[place] = chain
            if under_way.is_done:
                chains = [under_way.chains[i] for i in range(len(under_way.chains))]
                rounds.settle([under_way.asked], Streamed(policy, verifier, chains))
                ready.append(under_way.asked.tree)
        live -= len(ready)
        if on_round is not None and ready:
            goes_on = on_round(trees, len(trees) - live - len(ready) - len(waiting)) is not False
