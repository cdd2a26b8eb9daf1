"""A finite, known reasoning problem as a policy: for tests, and for trying a strategy in no time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random

from attrs import frozen

from rftt.interfaces import Extension, Policy, Segment, State
from rftt.tokens.grammar import Grammar


@frozen
class Reply:
    """One of the steps that a state may be answered with, and its probability."""

    function: str
    text: str
    probability: float


class TabularPolicy(Policy):
    """A policy written out as a table.

    ``table`` maps the texts of the steps so far to the replies that may follow; a path that is not
    in the table has ended. Each reply is one made-up id, drawn with its probability, or, where the
    searcher forces the function, with its probability among the replies of that function.

    Raises ``ValueError`` naming the path at fault if probabilities do not sum to 1, a reply breaks
    the grammar, or a terminal function is followed.
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
        """What may follow a path of step texts; nothing if it has ended."""
        return self.table.get(path, ())

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        return [self._prior(tuple(step.text for step in state.steps)) for state in states]

    def _prior(self, path: tuple[str, ...]) -> dict[str, float]:
        mass: dict[str, float] = {}
        for reply in self.replies(path):
            mass[reply.function] = mass.get(reply.function, 0.0) + reply.probability
        return {name: math.log(p) for name, p in mass.items()}

    def extend(self, requests: Sequence[Extension]) -> list[list[Segment]]:
        return [self._chain(request) for request in requests]

    def _chain(self, request: Extension) -> list[Segment]:
        rng = Random(request.seed)
        path = tuple(step.text for step in request.state.steps)
        steps = 1 if request.until == "step" else min(request.max_steps, request.max_tokens)
        chain: list[Segment] = []
        while len(chain) < steps and (not chain or not chain[-1].is_final):
            forced = request.function if not chain else None
            segment = self._sample(path, forced, rng)
            chain.append(segment)
            path = (*path, segment.text)
        return chain

    def _sample(self, path: tuple[str, ...], forced: str | None, rng: Random) -> Segment:
        options = [r for r in self.replies(path) if forced is None or r.function == forced]
        if not options:
            # The table does not know this function here: an empty step (id 0) that leads nowhere.
            assert forced is not None
            return Segment(forced, "", (0,), (0.0,), (True,), is_final=True)
        reply = rng.choices(options, [r.probability for r in options])[0]
        mass = sum(r.probability for r in options)
        return Segment(
            function=reply.function,
            text=reply.text,
            ids=(self._ids[reply.function, reply.text],),
            log_probs=(math.log(reply.probability / mass),),
            chosen=(True,),
            is_final=(*path, reply.text) not in self.table,
        )
