"""Policies that each break one promise, and the right one that they are made from."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import evolve

from rftt import GenerationRequest, SamplingParams, State, Step
from rftt.interfaces import StepStream
from rftt.testing import Reply, SpelledPolicy
from rftt.tokens.grammar import Function, Grammar

GRAMMAR: Final = Grammar(
    [Function("think", "think"), Function("check", "check"), Function("end", "answer")],
    start=("think", "check"),
    followers={"think": ("think", "check", "end"), "check": ("think", "end")},
)
TABLE: Final = {
    (): [
        Reply("think", "a b c", 0.3), Reply("think", "a", 0.1), Reply("check", "a b d", 0.2),
        Reply("check", "d", 0.4),
    ],
    ("a b c",): [Reply("think", "c a", 0.25), Reply("end", "a", 0.35), Reply("end", "d a", 0.4)],
    ("a",): [Reply("end", "a", 0.5), Reply("end", "b c", 0.5)],
    ("a b d",): [Reply("think", "b", 0.3), Reply("think", "b c", 0.4), Reply("end", "d", 0.3)],
    ("d",): [Reply("end", "a b c", 0.2), Reply("end", "a", 0.8)],
    ("a b c", "c a"): [Reply("check", "b", 0.5), Reply("end", "d", 0.5)],
    ("a b c", "c a", "b"): [Reply("end", "c d", 1.0)],
    ("a b d", "b"): [Reply("end", "c", 1.0)],
    ("a b d", "b c"): [Reply("end", "c", 0.1), Reply("end", "d d d", 0.9)],
}  # fmt: skip
"""Five kinds of first step, of one to three words; steps that end, steps that go on."""


class Right(SpelledPolicy):
    """Keeps every promise."""

    def __init__(self) -> None:
        super().__init__(GRAMMAR, TABLE)

    def __fingerprint__(self) -> Mapping[str, Any]:
        return {"grammar": self.grammar, "words": self._words}

    @property
    def closers(self) -> set[int]:
        return set(self._tokens.closers.values())

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        """What a subclass does to a completion."""
        return steps

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        return [self.change(request, self._complete(request)) for request in requests]


class NothingForNothing(Right):
    """Fails where nothing is asked."""

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        assert max(request.max_tokens for request in requests)
        return super().extend(requests)


class AnswersTwinsOnce(Right):
    """Requests of one seed and state have one completion between them."""

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        return super().extend(list({request.seed: request for request in requests}.values()))


class ReturnsAnIterator(Right):
    """A generator in place of a list."""

    def prior(self, states: Sequence[State]) -> Any:
        return iter(super().prior(states))


class TakesNotes(Right):
    """The completion is left in the problem."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        notes = request.state.problem.metadata
        assert isinstance(notes, dict)
        notes["steps"] = len(steps)
        return steps


class EmptiesTheList(Right):
    """Requests are taken off the list."""

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        assert isinstance(requests, list)
        completions = []
        while requests:
            completions += super().extend([requests.pop(0)])
        return completions


class ChecksTwice(Right):
    """A check may be followed by a check."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        if len(steps) == 2 and steps[0].function == "check":
            return [steps[0], evolve(steps[1], function="check")]
        return steps


class OneMore(Right):
    """A step more than is allowed."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        return self._complete(evolve(request, max_steps=request.max_steps + 1))


class GoesOn(Right):
    """A step is the start of a solution."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        return self._complete(evolve(request, until="solution"))


class CountsSteps(Right):
    """The limit is one of steps that are not cut."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        return self._complete(evolve(request, max_tokens=max(10, request.max_tokens)))


class ChoosesItself(Right):
    """The function that a request names is a hint."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        return self._complete(evolve(request, function=None, prefix=()))


class ForgetsThePrefix(Right):
    """A prefix is dropped, and the function is not."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        return self._complete(evolve(request, prefix=())) if request.prefix else steps


class AllDrawn(Right):
    """What was forced counts as drawn."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        return [evolve(step, action_mask=[True] * len(step.ids)) for step in steps]


class OpenersForced(Right):
    """Openers count as forced, also where the policy chose them."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        return [evolve(step, action_mask=(False, *step.action_mask[1:])) for step in steps]


class CutsInSilence(Right):
    """A step that the limit cut is as good as any."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        return [
            evolve(step, truncated=False, terminal=step.function == "end") if step.truncated else step
            for step in steps
        ]


class NeverEnds(Right):
    """The end of a solution is for others to find."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        return [evolve(step, terminal=step.truncated) for step in steps]


class StopsEarly(Right):
    """Two steps are enough."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        return steps[:2]


class ClosesInside(Right):
    """A body of two words or more holds a closer."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        closer = min(self.closers)
        return [
            evolve(step, ids=(*step.ids[:2], closer, *step.ids[3:])) if len(step.ids) > 4 else step
            for step in steps
        ]


class AnyPrefix(Right):
    """A closer in a prefix is a word as any other."""

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        return super().extend([
            evolve(request, prefix=()) if self.closers.intersection(request.prefix) else request
            for request in requests
        ])  # fmt: skip


class WritesNeatly(Right):
    """The text of an answer is tidied up, every other time."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        if request.seed % 2:
            return steps
        return [evolve(s, text=s.text.title()) if s.function == "end" else s for s in steps]


class ReadsItsText(Right):
    """A context is made of the texts of steps, of which a cut one has lost its end."""

    def context(self, state: State) -> tuple[int, ...]:
        ids: tuple[int, ...] = (0,)
        for step in state.steps:
            ids += (step.ids[0], *(self._words[word] for word in step.text.split()), max(self.closers))
        return ids


class NoLogProbs(Right):
    """As a server that gives none."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        return [evolve(step, log_probs=[math.nan] * len(step.ids)) for step in steps]


class Certain(Right):
    """Every id had probability 1."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        return [evolve(step, log_probs=[0.0] * len(step.ids)) for step in steps]


class BeforeTemperature(Right):
    """Log-probabilities are those of a flatter distribution than the one drawn from."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        return [evolve(step, log_probs=[2 * log_prob for log_prob in step.log_probs]) for step in steps]


class Seedless(Right):
    """Where the function is forced, one bit of the seed counts."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        if request.function is None:
            return steps
        return self._complete(evolve(request, seed=request.seed % 2))


class UniformPrior(Right):
    """Has no opinion, and then chooses."""

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        return [dict.fromkeys(prior, -math.log(len(prior))) for prior in super().prior(states)]


class PriorOfAll(Right):
    """Each function of the grammar has its share, legal or not."""

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        return [dict.fromkeys(GRAMMAR.functions, -math.log(3)) for _ in states]


class LogitsForPrior(Right):
    """Numbers in the right order that add up to nothing in particular."""

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        return [{name: p - 1 for name, p in prior.items()} for prior in super().prior(states)]


class Chance(Right):
    """Draws from the process's random numbers."""

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        return self._complete(evolve(request, seed=random.getrandbits(63)))


class LongestFirst(Right):
    """Requests are sorted by length, and not sorted back."""

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        return super().extend(sorted(requests, key=lambda r: (-len(r.state.steps), r.seed)))


class SeedByPlace(Right):
    """The place in the call is part of the seed."""

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        return super().extend(
            [evolve(request, seed=request.seed ^ place) for place, request in enumerate(requests)]
        )


class PriorAmongOthers(Right):
    """A prior is flatter among many."""

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        priors = super().prior(states)
        if len(states) == 1:
            return priors
        return [dict.fromkeys(prior, -math.log(len(prior))) for prior in priors]


class CachesById(Right):
    """What is made of a question is remembered by the problem's id."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, str] = {}

    def change(self, request: GenerationRequest, steps: list[Step]) -> list[Step]:
        problem = request.state.problem
        question = self._known.setdefault(problem.id, problem.question)
        return self._complete(evolve(request, seed=request.seed ^ sum(map(ord, question))))


class StreamsOtherwise(Right):
    """A stream has seeds of its own."""

    def stream(self) -> StepStream:
        policy = SeedByPlace()
        return SpelledPolicy.stream(policy)


class _Once(StepStream):
    def __init__(self, policy: Right) -> None:
        self._policy = policy
        self._added: dict[int, GenerationRequest] = {}

    def add(self, key: int, request: GenerationRequest) -> None:
        self._added[key] = request

    def collect(self) -> Sequence[tuple[int, Sequence[Step]]]:
        keys, requests = [*self._added], [*self._added.values()]
        self._added.clear()
        completions = self._policy.extend(requests)
        # Keys of another lot.
        return list(zip(range(len(keys)), completions, strict=True))


class NumbersItsStream(Right):
    """A stream counts from 0, whatever the keys."""

    def stream(self) -> StepStream:
        return _Once(self)


class CountsInItsSettings(Right):
    """How often it was called is an attribute as any other."""

    calls = 0

    def __fingerprint__(self) -> Mapping[str, Any]:
        return {"calls": self.calls}

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        self.calls += 1
        return super().extend(requests)


class SaysAnotherTemperature(Right):
    """Learners are told of a temperature that nothing was drawn at."""

    @property
    def sampling_params(self) -> SamplingParams:
        return SamplingParams(0.5)
