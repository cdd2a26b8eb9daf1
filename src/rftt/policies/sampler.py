"""How tokens are produced, apart from what they mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from attrs import field, frozen, validators
from jaxtyping import Float
from torch import Tensor

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


class Sampler(ABC):
    """A model that can be sampled from. ``temperature`` 0 is greedy."""

    temperature: float
    vocabulary: int
    """Number of ids that the tokenizer knows."""
    size: int
    """Number of rows in the model's output, at least ``vocabulary``."""

    @abstractmethod
    def sample(self, requests: Sequence[SampleRequest], automaton: TokenAutomaton) -> list[Sample]:
        """One sample for each request, in order. Ids that the automaton forbids have probability 0
        and the rest is renormalised."""

    @abstractmethod
    def next_log_probs(
        self, prompts: Sequence[tuple[int, ...]], states: Sequence[int], automaton: TokenAutomaton
    ) -> Float[Tensor, "prompts size"]:
        """Log-probabilities of the next id after each prompt, as :meth:`sample` would draw it at
        temperature 1."""
