"""Steps as dialogues with a sampler: a policy says what to sample next once it has seen what came."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Sequence

from rftt.interfaces import Extension, Policy, Segment
from rftt.policies.sampler import Sample, Sampler, SampleRequest
from rftt.tokens.automaton import TokenAutomaton

Dialogue = Generator[SampleRequest, Sample, list[Segment]]
"""Yields requests, is sent samples, and returns a chain of steps."""


class SampledPolicy(Policy):
    """A policy whose tokens come from a sampler; each extension is a dialogue of its own, so none
    waits for another."""

    sampler: Sampler
    automaton: TokenAutomaton

    @abstractmethod
    def dialogue(self, request: Extension) -> Dialogue:
        """The dialogue that answers one request."""

    def extend(self, requests: Sequence[Extension]) -> list[list[Segment]]:
        return self.hold([self.dialogue(request) for request in requests])

    def hold(self, dialogues: Sequence[Dialogue]) -> list[list[Segment]]:
        """Hold dialogues side by side; their chains, in order."""
        stream = self.sampler.stream(self.automaton)
        for key, dialogue in enumerate(dialogues):
            stream.add(key, next(dialogue))
        chains: dict[int, list[Segment]] = {}
        while done := stream.collect():
            for key, sample in done:
                try:
                    stream.add(key, dialogues[key].send(sample))
                except StopIteration as end:
                    chains[key] = end.value
        return [chains[key] for key in range(len(dialogues))]
