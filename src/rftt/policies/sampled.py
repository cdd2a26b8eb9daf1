"""Policies over a sampler: a generator for each request says what to sample next."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence

from rftt.interfaces import GenerationRequest, Policy, Step, StepStream
from rftt.problems.problem import Problem
from rftt.samplers.sampler import Sample, Sampler, SampleRequest
from rftt.samplers.sampling import SamplingParams
from rftt.tokens.automaton import TokenAutomaton

StepGenerator = Generator[SampleRequest, Sample, list[Step]]
"""Yields sample requests, is sent their samples, and returns a completion."""

PROBE = Problem("probe", "What is 1+1?", "2")
"""The problem by whose text two ``question`` callables are compared."""


class SampledPolicy(Policy):
    """A policy whose tokens come from a sampler. Each request has a generator of its own, so none
    waits for another.

    Attributes:
        sampler: produces the tokens.
        automaton: the masks that they are drawn under.
    """

    sampler: Sampler
    automaton: TokenAutomaton

    @property
    def sampling_params(self) -> SamplingParams:
        """What the tokens are drawn with: temperature, top-p and min-p."""
        return self.sampler.sampling_params

    @abstractmethod
    def steps(self, request: GenerationRequest) -> StepGenerator:
        """Return the generator that answers one request."""

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        return self.run_steps([self.steps(request) for request in requests])

    def run_steps(self, generators: Sequence[StepGenerator]) -> list[list[Step]]:
        """Run generators side by side and return their completions, in order."""
        stream = _SampledStream(self)
        for key, generator in enumerate(generators):
            stream.start(key, generator)
        completions: dict[int, list[Step]] = {}
        while finished := stream.collect():
            completions.update(finished)
        return [completions[key] for key in range(len(generators))]

    def stream(self) -> StepStream:
        """Open a stream over one stream of the sampler.

        Where :meth:`extend` is overridden, the requests go through it, all that were added in one call.
        """
        if getattr(self.extend, "__func__", None) is not SampledPolicy.extend:
            return super().stream()
        return _SampledStream(self)


class _SampledStream(StepStream):
    """Generators over one stream of samples."""

    def __init__(self, policy: SampledPolicy) -> None:
        self._steps = policy.steps
        self._samples = policy.sampler.stream(policy.automaton)
        self._running: dict[int, StepGenerator] = {}

    def add(self, key: int, request: GenerationRequest) -> None:
        self.start(key, self._steps(request))

    def start(self, key: int, generator: StepGenerator) -> None:
        """Add a generator that has not begun."""
        self._samples.add(key, next(generator))
        self._running[key] = generator

    def collect(self) -> list[tuple[int, list[Step]]]:
        finished: list[tuple[int, list[Step]]] = []
        while not finished and (samples := self._samples.collect()):
            for key, sample in samples:
                try:
                    self._samples.add(key, self._running[key].send(sample))
                except StopIteration as end:
                    del self._running[key]
                    finished.append((key, end.value))
        return finished


def probe(question: Callable[[Problem], str]) -> str:
    """Return the text that ``question`` gives for one fixed problem, for a policy's fingerprint.

    The callable itself may be a local function, such as the closure over a chat template that
    :func:`rftt.policies.chat.chat_question` returns. It has no name that another process could compare,
    and must not be refused for that: what matters is the text.

    Raises:
        ValueError: if ``question`` fails for that problem.
    """
    try:
        return question(PROBE)
    except Exception as error:
        raise ValueError(
            f"question: it failed for the problem {PROBE.question!r}, with {error!r}; policies are told "
            "apart by its text for that problem, so write it for any problem"
        ) from error
