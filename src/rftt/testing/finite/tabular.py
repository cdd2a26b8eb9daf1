"""A policy written out as a table: for tests, and to try a strategy without a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from random import Random

from attrs import frozen

from rftt.interfaces import GenerationRequest, Policy, State, Step
from rftt.tokens.grammar import Grammar


@frozen
class Reply:
    """A step that may follow a path, with its probability there."""

    function: str
    text: str
    probability: float


class TabularPolicy(Policy):
    """Sample steps from a table.

    Each step is one made-up id. It is drawn with the probability of its reply; where the searcher
    forces a function or the id, among the replies that fit. Where none fits, the step is empty and
    ends the solution.

    Args:
        grammar: the functions, and which may follow which.
        table: for the texts of the steps so far, the replies that may follow. A path that is not in
            the table has ended.

    Raises:
        ValueError: naming the path at which probabilities do not sum to 1 or a reply breaks the
            grammar.
    """

    def __init__(self, grammar: Grammar, table: Mapping[tuple[str, ...], Sequence[Reply]]) -> None:
        self.grammar = grammar
        self.table = dict(table)
        self._ids: dict[tuple[str, str], int] = {}
        if () not in self.table:
            raise ValueError("table: there is no entry for (), the question")
        for path, replies in self.table.items():
            if not replies or not math.isclose(sum(r.probability for r in replies), 1.0):
                raise ValueError(f"table: probabilities after {path} do not sum to 1")
            for reply in replies:
                self._ids.setdefault((reply.function, reply.text), len(self._ids) + 1)
                if reply.probability <= 0:
                    raise ValueError(f"table: {reply} after {path} has no probability")
        self._check((), None)

    def _check(self, path: tuple[str, ...], last: str | None) -> None:
        for reply in self.table.get(path, ()):
            if reply.function not in self.grammar.legal(last):
                raise ValueError(f"table: {reply.function!r} after {path} breaks the grammar")
            self._check((*path, reply.text), reply.function)

    def replies(self, path: tuple[str, ...]) -> Sequence[Reply]:
        """Return what may follow the texts of the steps so far; nothing if the path has ended."""
        return self.table.get(path, ())

    @property
    def vocabulary(self) -> int:
        """The number of ids. 0 is no step's: a question is one or more of it."""
        return len(self._ids) + 1

    def ids(self, reply: Reply) -> tuple[int, ...]:
        """Return the ids of a reply's step. Replies with one function and text have the same ids."""
        return (self._ids[reply.function, reply.text],)

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        return [self._prior(tuple(step.text for step in state.steps)) for state in states]

    def _prior(self, path: tuple[str, ...]) -> dict[str, float]:
        mass: dict[str, float] = {}
        for reply in self.replies(path):
            mass[reply.function] = mass.get(reply.function, 0.0) + reply.probability
        return {name: math.log(p) for name, p in mass.items()}

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        return [self._complete(request) for request in requests]

    def _complete(self, request: GenerationRequest) -> list[Step]:
        rng = Random(request.seed)
        path = tuple(step.text for step in request.state.steps)
        # Every step samples one id, but for the first where a prefix forces it.
        most = min(request.max_steps, request.max_tokens + bool(request.prefix))
        steps = [self._sample(path, request.function, request.prefix, rng)]
        while request.until == "solution" and len(steps) < most and not steps[-1].terminal:
            path = (*path, steps[-1].text)
            steps.append(self._sample(path, None, (), rng))
        return steps

    def _sample(
        self, path: tuple[str, ...], function: str | None, prefix: tuple[int, ...], rng: Random
    ) -> Step:
        replies = [r for r in self.replies(path) if function in (None, r.function)]
        fitting = [r for r in replies if prefix in ((), self.ids(r))]
        if not fitting:
            name = function or self.replies(path)[0].function
            ids = prefix or (0,)
            sampled = (not prefix,) * len(ids)
            return Step(name, "", ids, (0.0,) * len(ids), sampled, terminal=True)
        reply = rng.choices(fitting, [r.probability for r in fitting])[0]
        mass = sum(r.probability for r in replies)
        return Step(
            function=reply.function,
            text=reply.text,
            ids=self.ids(reply),
            log_probs=(math.log(reply.probability / mass),),
            action_mask=(not prefix,),
            terminal=(*path, reply.text) not in self.table,
        )


def paths(policy: TabularPolicy) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yield the ids of each path from the question to an end of a solution, and its probability."""
    for ids, _, probability in named_paths(policy):
        yield ids, probability


def named_paths(
    policy: TabularPolicy,
    ids: tuple[int, ...] = (),
    path: tuple[str, ...] = (),
    probability: float = 1.0,
) -> Iterator[tuple[tuple[int, ...], tuple[str, ...], float]]:
    """Yield the ids of each path to an end, the texts of its steps, and its probability. Two paths with
    the same texts may differ in their functions, and so in their ids."""
    replies: dict[tuple[int, ...], tuple[str, float]] = {}
    for reply in policy.replies(path):
        _, before = replies.get(policy.ids(reply), ("", 0.0))
        replies[policy.ids(reply)] = (reply.text, before + reply.probability)
    if not replies:
        yield ids, path, probability
    for more, (text, share) in replies.items():
        yield from named_paths(policy, (*ids, *more), (*path, text), probability * share)
