"""The loop that grows many trees at once, in rounds of one policy call and one verifier call each.

A strategy is written for one tree. In each round the loop

1. asks the strategy about every tree that goes on (``_begin_rounds``),
2. has all completions sampled in one batch (``_collect``),
3. has all their ends judged in one call, and tells the strategy (``_settle``).

A tree that is finished makes room for the next problem. With ``streaming`` a tree's round is settled as
soon as its own completions are there; rounds are the case in which all are waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from random import Random

from attrs import define, field

from rftt.interfaces import Policy, StepStream, Verdict, Verifier
from rftt.search.budget import SearchConfig
from rftt.search.engine.allocation import has_budget
from rftt.search.engine.run_directory import RunDirectory, TreeRecord
from rftt.search.engine.tree_round import TreeRound, ask
from rftt.search.searcher import Searcher
from rftt.search.tree.tree import SearchTree
from rftt.search.verdicts import check_verdicts

OnRound = Callable[[Sequence[SearchTree], int], bool | None]
"""Called after each round with all trees and how many are finished; returning ``False`` stops."""

OnCompletions = Callable[[int], None]
"""Called whenever completions arrive, with their number."""


@define(eq=False)
class SearchLoop:
    """The state of one search of many trees.

    Attributes:
        trees, searcher, policy, verifier, config: as in :func:`~rftt.search.engine.engine.run_search`.
        record: where settled rounds are written, if anywhere.
        on_round, on_completions: hooks.
        cut: completions that the budget cut short.
    """

    trees: list[SearchTree]
    searcher: Searcher
    policy: Policy
    verifier: Verifier
    config: SearchConfig
    record: RunDirectory | None
    on_round: OnRound | None
    on_completions: OnCompletions | None
    cut: int = field(default=0, init=False)
    _queue: list[SearchTree] = field(init=False)
    """Trees that have not begun, the next one last."""
    _ready: list[SearchTree] = field(factory=list, init=False)
    """Trees between two rounds."""
    _in_flight: dict[int, tuple[TreeRound, int]] = field(factory=dict, init=False)
    """By key in the stream, the round of each request and its place there."""
    _busy: int = field(default=0, init=False)
    """Trees that wait for completions."""
    _keys: count[int] = field(factory=count, init=False)
    _priors_known: dict[str, int] = field(factory=dict, init=False)
    """For each problem, how many of its nodes were looked at for a missing prior."""
    _rng: Random = field(factory=Random, init=False)
    _place: dict[str, int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._queue = self.trees[::-1]
        self._place = {tree.problem.id: place for place, tree in enumerate(self.trees)}

    def replay(self) -> bool:
        """Go through the recorded rounds without policy and verifier; return whether to go on.

        Raises:
            ValueError: naming the round and the node at which the strategy asks for something else.
        """
        if self.record is None:
            return True
        by_id = {tree.problem.id: tree for tree in self.trees}
        begun: dict[str, SearchTree] = {}
        for records in self.record.rounds():
            settled, arrived = [], 0
            for held in records:
                begun[held.problem] = tree = by_id[held.problem]
                for node, prior in held.priors.items():
                    tree.prior[node] = prior
                self._priors_known[held.problem] = len(tree)
                expansions = ask(self.searcher, tree, self.config.seed, self._rng)
                held.check_asked(tree, expansions)
                tree_round = TreeRound(tree, expansions, held.priors)
                for place, steps in enumerate(held.completions):
                    tree_round.attach(steps, cut=place in held.cut)
                tree.rounds += held.policy_calls
                tree.rollouts += len(held.completions)
                arrived += len(held.completions)
                settled.append(tree_round)
            self._tell(settled, [held.verdicts for held in records])
            self._ready = list(begun.values())
            self._queue = [tree for tree in self._queue if tree.problem.id not in begun]
            if self.on_completions is not None:
                self.on_completions(arrived)
            if self._is_stopped():
                return False
        return True

    def run(self) -> None:
        """Search until every tree is done, the budget is spent or a hook stops it."""
        seconds = self.config.budget.seconds
        deadline = float("inf") if seconds is None else time.monotonic() + seconds
        stream: StepStream | None = None
        goes_on = True
        while True:
            if goes_on and time.monotonic() < deadline:
                for tree_round in self._begin_rounds():
                    if stream is None:
                        stream = self.policy.stream()
                    self._busy += 1
                    self._submit(stream, tree_round)
            if stream is None:
                return
            settled = self._collect(stream)
            if not self._in_flight:
                stream = None
            self._settle(settled)
            goes_on = goes_on and not self._is_stopped()

    def _begin_rounds(self) -> list[TreeRound]:
        """Ask about every tree that goes on, and begin on problems that wait in place of those that are
        finished."""
        limit = self.config.max_concurrent_trees or len(self.trees)
        begun: list[TreeRound] = []
        while self._ready or (self._queue and self._busy + len(begun) < limit):
            while self._queue and self._busy + len(begun) + len(self._ready) < limit:
                self._ready.append(self._queue.pop())
            going = [
                tree
                for tree in self._ready
                if has_budget(tree, self.config.budget) and not self.searcher.is_done(tree)
            ]
            self._ready = []
            priors = self._fill_priors(going) if self.searcher.needs_prior else {}
            for tree in going:
                if expansions := ask(self.searcher, tree, self.config.seed, self._rng):
                    begun.append(TreeRound(tree, expansions, priors.get(tree.problem.id, {})))
        return begun

    def _fill_priors(self, trees: Sequence[SearchTree]) -> dict[str, dict[int, Mapping[str, float]]]:
        """Ask the policy for the priors of open nodes that lack one, and return them by problem."""
        missing: list[tuple[SearchTree, int]] = []
        for tree in trees:
            new = range(self._priors_known.get(tree.problem.id, 0), len(tree))
            missing += [(tree, node) for node in new if tree.prior[node] is None and tree.is_open(node)]
            self._priors_known[tree.problem.id] = len(tree)
        filled: dict[str, dict[int, Mapping[str, float]]] = {}
        if not missing:
            return filled
        priors = self.policy.prior([tree.state(node) for tree, node in missing])
        if len(priors) != len(missing):
            raise ValueError(
                f"{type(self.policy).__name__}.prior returned {len(priors)} priors for {len(missing)} "
                "states; return one for each, in order"
            )
        for (tree, node), prior in zip(missing, priors, strict=True):
            tree.prior[node] = prior
            filled.setdefault(tree.problem.id, {})[node] = prior
        return filled

    def _submit(self, stream: StepStream, tree_round: TreeRound) -> bool:
        """Hand over what the budget buys next of a round; return whether that was anything."""
        requests = tree_round.next_requests(self.config)
        for place, request in enumerate(requests):
            key = next(self._keys)
            self._in_flight[key] = tree_round, place
            stream.add(key, request)
        return bool(requests)

    def _collect(self, stream: StepStream) -> list[TreeRound]:
        """Wait for completions: for all in flight, or when streaming for those of one tree at least.
        Return the rounds that are complete."""
        complete: list[TreeRound] = []
        while self._in_flight and not (self.config.streaming and complete):
            finished = stream.collect()
            if not finished:
                raise RuntimeError(
                    f"{type(self.policy).__name__}: its stream returns nothing, and "
                    f"{len(self._in_flight)} requests are in flight"
                )
            for key, completion in finished:
                tree_round, place = self._in_flight.pop(key)
                # What the budget has left, once a policy call's lengths are known, may buy more.
                if tree_round.arrive(place, completion) and not self._submit(stream, tree_round):
                    complete.append(tree_round)
            if self.on_completions is not None:
                self.on_completions(len(finished))
        if not self.config.streaming:
            # Completions finish in any order; rounds are settled in that of the trees.
            complete.sort(key=lambda tree_round: self._place[tree_round.tree.problem.id])
        return complete

    def _settle(self, complete: Sequence[TreeRound]) -> None:
        """Have the ends of rounds judged in one call, tell the strategy, and record."""
        ends = [tree_round.ends(self.searcher.scores_partial) for tree_round in complete]
        states = [
            tree_round.tree.state(node)
            for tree_round, nodes in zip(complete, ends, strict=True)
            for node in nodes
        ]
        judged = iter(check_verdicts(self.verifier, states) if states else ())
        verdicts = [[next(judged) for _ in nodes] for nodes in ends]
        if self.record is not None:
            pairs = zip(complete, verdicts, strict=True)
            self.record.append([TreeRecord.of(tree_round, own) for tree_round, own in pairs])
        self._tell(complete, verdicts)
        self._busy -= len(complete)
        self._ready += [tree_round.tree for tree_round in complete]

    def _tell(self, complete: Sequence[TreeRound], verdicts: Sequence[Sequence[Verdict]]) -> None:
        """Put each round's verdicts on its tree, and tell the strategy."""
        for tree_round, own in zip(complete, verdicts, strict=True):
            tree = tree_round.tree
            for node, verdict in zip(tree_round.ends(self.searcher.scores_partial), own, strict=True):
                tree.verdict[node] = verdict
            self.cut += len(tree_round.cut)
            self.searcher.tell(tree, tree_round.results())

    def _is_stopped(self) -> bool:
        if self.on_round is None:
            return False
        finished = len(self.trees) - self._busy - len(self._ready) - len(self._queue)
        return self.on_round(self.trees, finished) is False
