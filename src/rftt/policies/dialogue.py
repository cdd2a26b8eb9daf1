"""Steps as dialogues with a sampler: a policy says what to sample next once it has seen what came."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Sequence

from rftt.interfaces import ChainStream, Extension, Policy, Segment
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
        stream = self.stream()
        for key, dialogue in enumerate(dialogues):
            stream.begin(key, dialogue)
        chains: dict[int, list[Segment]] = {}
        while done := stream.collect():
            chains.update(done)
        return [chains[key] for key in range(len(dialogues))]

    def stream(self) -> DialogueStream:
        return DialogueStream(self)


class DialogueStream(ChainStream):
    """Dialogues over one stream of samples."""

    def __init__(self, policy: SampledPolicy) -> None:
        self._policy = policy
        self._samples = policy.sampler.stream(policy.automaton)
        self._open: dict[int, Dialogue] = {}

    def add(self, key: int, request: Extension) -> None:
        self.begin(key, self._policy.dialogue(request))

    def begin(self, key: int, dialogue: Dialogue) -> None:
        """Take on a dialogue that has not begun."""
        self._samples.add(key, next(dialogue))
        self._open[key] = dialogue

    def collect(self) -> list[tuple[int, list[Segment]]]:
        finished: list[tuple[int, list[Segment]]] = []
        while not finished and (done := self._samples.collect()):
            for key, sample in done:
                try:
                    self._samples.add(key, self._open[key].send(sample))
                except StopIteration as end:
                    del self._open[key]
                    finished.append((key, end.value))
        return finished
