"""One tree's round: from what the strategy asks to what it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice, repeat
from random import Random
from typing import Any, Final

from attrs import define, field

from rftt.interfaces import GenerationRequest, Step, Verdict
from rftt.search.budget import SearchConfig
from rftt.search.engine.allocation import Allowance, allocate, most_completions
from rftt.search.searcher import Expansion, ExpansionResult, Searcher
from rftt.search.seeding import seed_from
from rftt.search.tree.tree import SearchTree

_MOST_COMPLETIONS: Final = 100_000
"""The most completions of one round where the budget does not say how many it buys."""


def ask(searcher: Searcher, tree: SearchTree, seed: int, rng: Random) -> tuple[Expansion, ...]:
    """Ask a strategy what to expand; nothing if the search is over.

    Raises:
        TypeError: naming the strategy, if it returns anything but a list of expansions.
        ValueError: naming the strategy, if it asks for nothing and is not done, for what cannot be
            expanded, or for more than any round may hold.
    """
    rng.seed(seed_from(f"{seed}/{tree.problem.id}/{tree.rounds}/ask"))
    expansions: Any = searcher.ask(tree, rng)
    name = type(searcher).__name__
    if not isinstance(expansions, (list, tuple)):
        raise TypeError(
            f"{name}.ask returned {expansions!r}, a {type(expansions).__name__}; return a list of "
            "Expansion, empty if the search is over"
        )
    for place, expansion in enumerate(expansions):
        if not isinstance(expansion, Expansion):
            raise TypeError(
                f"{name}.ask returned {expansion!r}, a {type(expansion).__name__}, as expansion "
                f"{place} of {len(expansions)}; return Expansion(node, ...)"
            )
        _check_expansion(name, tree, expansion)
    if not expansions and not searcher.is_done(tree):
        raise ValueError(
            f"{name} asks for nothing, but says that its search of {tree.problem.id!r} is not done: let "
            "is_done say so, or mark the root exhausted"
        )
    count, limit = sum(expansion.count for expansion in expansions), tree.budget
    if count > _MOST_COMPLETIONS and limit.rollouts is limit.nodes is limit.tokens is None:
        raise ValueError(
            f"{name} asks for {count} completions of {tree.problem.id!r} in one round, more than "
            f"{_MOST_COMPLETIONS}, and the budget limits neither rollouts, nodes nor tokens: ask for "
            "fewer, or give Budget(rollouts=...)"
        )
    return tuple(expansions)


def _check_expansion(name: str, tree: SearchTree, expansion: Expansion) -> None:
    node = expansion.node
    if not 0 <= node < len(tree):
        wrong = f"there are nodes 0 to {len(tree) - 1}"
    elif not tree.is_open(node):
        wrong = "it is terminal, exhausted, at the depth limit or above the step that was committed to"
    elif expansion.function is not None and expansion.function not in tree.legal(node):
        wrong = f"{expansion.function!r} may not follow it; legal: {', '.join(tree.legal(node))}"
    else:
        return
    raise ValueError(f"{name} asks to expand node {node} of {tree.problem.id!r}, but {wrong}")


@define(eq=False)
class TreeRound:
    """The completions of one tree's round, in the order in which they were asked for.

    Attributes:
        tree: the tree.
        expansions: what the strategy asked for.
        priors: by node, the priors that were filled in for the ask.
        number: the tree's ``rounds`` at the ask.
        completions: for each completion that is there, its nodes.
        cut: the completions that the budget cut short, by place.
    """

    tree: SearchTree
    expansions: tuple[Expansion, ...]
    priors: Mapping[int, Mapping[str, float]]
    number: int = field(init=False)
    completions: list[tuple[int, ...]] = field(factory=list, init=False)
    cut: set[int] = field(factory=set, init=False)
    _wanted: list[Expansion] = field(init=False)
    _allowances: list[Allowance] = field(factory=list, init=False)
    _requests: list[GenerationRequest] = field(factory=list, init=False)
    _arrived: dict[int, Sequence[Step]] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self.number = self.tree.rounds
        wanted = chain.from_iterable(repeat(e, e.count) for e in self.expansions)
        self._wanted = list(islice(wanted, most_completions(self.tree)))

    def next_requests(self, config: SearchConfig) -> list[GenerationRequest]:
        """Return what the budget buys of the completions that are still wanted, for one policy call."""
        tree = self.tree
        wanted = self._wanted[len(self.completions) :]
        self._allowances = allocate(tree, config.budget, config.max_tokens, wanted) if wanted else []
        self._requests = []
        for expansion, allowance in zip(wanted, self._allowances, strict=False):
            self._requests.append(
                GenerationRequest(
                    state=tree.state(expansion.node),
                    seed=seed_from(f"{config.seed}/{tree.problem.id}/{tree.rollouts}"),
                    function=expansion.function,
                    until=expansion.until,
                    max_steps=allowance.max_steps,
                    max_tokens=allowance.max_tokens,
                    prefix=expansion.prefix,
                )
            )
            tree.rollouts += 1
        return self._requests

    def arrive(self, place: int, completion: Sequence[Step]) -> bool:
        """Take a completion in, by its place among the requests; return whether it was the last of
        them. All are then on the tree.

        Raises:
            ValueError: if the completion breaks its request's limits.
        """
        check_completion(self._requests[place], completion)
        self._arrived[place] = completion
        if len(self._arrived) < len(self._requests):
            return False
        for i, (request, allowance) in enumerate(zip(self._requests, self._allowances, strict=True)):
            steps = self._arrived.pop(i)
            last = steps[-1]
            unfinished = last.truncated or (request.until == "solution" and not last.terminal)
            self.attach(steps, cut=allowance.reduced and unfinished)
        self.tree.rounds += 1
        return True

    def attach(self, steps: Sequence[Step], *, cut: bool) -> None:
        """Put the next completion on the tree."""
        node, nodes = self._wanted[len(self.completions)].node, []
        for step in steps:
            node = self.tree.attach(node, step)
            nodes.append(node)
        if cut:
            self.cut.add(len(self.completions))
        self.completions.append(tuple(nodes))

    def ends(self, scores_partial: bool) -> list[int]:
        """Return the nodes that a verifier judges: where completions reach an end. What the budget cut
        is no answer."""
        return [
            nodes[-1]
            for place, (expansion, nodes) in enumerate(zip(self._wanted, self.completions, strict=False))
            if place not in self.cut
            and (expansion.until == "solution" or scores_partial or self.tree.is_terminal(nodes[-1]))
        ]

    def results(self) -> list[ExpansionResult]:
        """Return what the strategy is told, once the ends are judged."""
        found, start = [], 0
        for expansion in self.expansions:
            nodes = tuple(self.completions[start : start + expansion.count])
            start += expansion.count
            scores = tuple([_score(self.tree.verdict[each[-1]]) for each in nodes])
            found.append(ExpansionResult(expansion, nodes, scores))
        return found


def _score(verdict: Verdict | None) -> float | None:
    return None if verdict is None else verdict.score


def check_completion(request: GenerationRequest, completion: Sequence[Step]) -> None:
    """Raise ``ValueError`` if a policy's completion breaks its request's limits."""
    if not 1 <= len(completion) <= request.max_steps:
        wrong = f"has {len(completion)} steps; asked for 1 to {request.max_steps}"
    elif sum([sum(step.action_mask) for step in completion]) > request.max_tokens:
        wrong = f"has more than the {request.max_tokens} sampled ids that were allowed"
    elif request.function is not None and completion[0].function != request.function:
        wrong = f"opens with {completion[0].function!r}; asked for {request.function!r}"
    else:
        return
    raise ValueError(f"the policy's completion for {request.state.problem.id!r} {wrong}")
