"""How tokens are produced, apart from what they mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from attrs import field, frozen, validators
from jaxtyping import Float
from torch import Tensor

from rftt.policies.distribution import Warp
from rftt.tokens.automaton import TokenAutomaton


@frozen
class SampleRequest:
    """Continue ``prompt`` by at most ``max_tokens`` ids, from ``state`` of the automaton until it
    ends. Every draw is a function of (seed, position) and of the model's distribution alone."""

    prompt: tuple[int, ...]
    seed: int
    state: int
    max_tokens: int = field(validator=validators.ge(1))


@frozen
class Sample:
    """Sampled ids, and the log-probability of each under the distribution it was drawn from."""

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]


class SampleStream(ABC):
    """Requests under way: more can be added while others still run."""

    @abstractmethod
    def add(self, key: int, request: SampleRequest) -> None:
        """Take on a request. Where there is more to do than fits one batch, lower keys go first."""

    @abstractmethod
    def collect(self) -> list[tuple[int, Sample]]:
        """Work until at least one request is done; keys and samples of those that are. Empty when
        none is under way."""


class Sampler(ABC):
    """A model that can be sampled from."""

    warp: Warp
    vocabulary: int
    """Number of ids that the tokenizer knows."""
    size: int
    """Number of rows in the model's output, at least ``vocabulary``."""

    @abstractmethod
    def stream(self, automaton: TokenAutomaton) -> SampleStream:
        """An empty stream. Ids that the automaton forbids have probability 0 and the rest is
        renormalised. The model's weights must not change while requests are under way."""

    def sample(self, requests: Sequence[SampleRequest], automaton: TokenAutomaton) -> list[Sample]:
        """One sample for each request, in order."""
        stream = self.stream(automaton)
        for key, request in enumerate(requests):
            stream.add(key, request)
        samples: dict[int, Sample] = {}
        while done := stream.collect():
            samples.update(done)
        return [samples[key] for key in range(len(requests))]

    @abstractmethod
    def next_log_probs(
        self, prompts: Sequence[tuple[int, ...]], states: Sequence[int], automaton: TokenAutomaton
    ) -> Float[Tensor, "prompts size"]:
        """Log-probabilities of the next id after each prompt, as :meth:`sample` would draw it if
        its warp were ``Warp()``."""
