"""A problem without end, in which the first step decides the reward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import ClassVar, Final

from attrs import field, frozen

from rftt.interfaces import GenerationRequest, Policy, State, Step, Verdict, Verifier
from rftt.tokens.grammar import Function, Grammar

_NAMES: Final = ("a", "b", "c")


@frozen(eq=False)
class EndlessPolicy(Policy):
    """Sample one of three functions after each step, or the end.

    Attributes:
        weights: of functions that are not as likely as the others, which have 1.
    """

    names: ClassVar = _NAMES
    grammar = Grammar(
        [Function(name, f"do {name}") for name in (*_NAMES, "end")],
        start=_NAMES,
        followers=dict.fromkeys(_NAMES, (*_NAMES, "end")),
    )
    weights: Mapping[str, float] = field(factory=dict)

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        return [self._prior(self.grammar.legal(state.last)) for state in states]

    def _prior(self, names: Sequence[str]) -> dict[str, float]:
        weights = [self.weights.get(name, 1.0) for name in names]
        return {n: math.log(w / sum(weights)) for n, w in zip(names, weights, strict=True)}

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        return [self._complete(request) for request in requests]

    def _complete(self, request: GenerationRequest) -> list[Step]:
        rng, last, forced = Random(request.seed), request.state.last, request.function
        steps: list[Step] = []
        for _ in range(request.max_steps if request.until == "solution" else 1):
            names = self.grammar.legal(last)
            weights = [self.weights.get(name, 1.0) for name in names]
            last, forced = forced or rng.choices(names, weights)[0], None
            text = f"{last}{rng.randrange(10)}"
            steps.append(Step(last, text, (1,), (0.0,), (True,), terminal=last == "end"))
            if last == "end":
                break
        return steps


@frozen
class FirstStepVerifier(Verifier):
    """Score solutions by the function of their first step."""

    scores: Mapping[str, float]

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [Verdict(self.scores[state.steps[0].function], "?") for state in states]

    @classmethod
    def favouring(cls, favourite: str, low: float, high: float) -> FirstStepVerifier:
        """Return one that gives ``high`` after one function and ``low`` after the others."""
        return cls({name: high if name == favourite else low for name in _NAMES})
