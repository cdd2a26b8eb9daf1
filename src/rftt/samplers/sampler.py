"""The abstract sampler: how tokens are produced, apart from what they mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen, validators

from rftt.interfaces import Until
from rftt.samplers.sampling import SamplingParams
from rftt.tokens.automaton import TokenAutomaton


@frozen
class SampleRequest:
    """A request to continue a prompt.

    Every draw is a function of (seed, position) and of the model's distribution alone.

    Attributes:
        prompt: ids to continue, at least one.
        seed: decides every draw.
        state: the automaton's state after the prompt.
        max_tokens: most ids to sample.
        until: ``"solution"`` ends the sample where the automaton ends; ``"step"`` also where a step
            closes.

    Raises:
        ValueError: if the prompt is empty or ``max_tokens`` is less than 1.
    """

    prompt: tuple[int, ...] = field()
    seed: int
    state: int
    max_tokens: int = field(validator=validators.ge(1))
    until: Until = "solution"

    @prompt.validator
    def _check_prompt(self, _: object, prompt: tuple[int, ...]) -> None:
        if not prompt:
            raise ValueError("the prompt is empty: a model needs one id to start from")


@frozen
class Sample:
    """Sampled ids, and the log-probability of each under the distribution it was drawn from.

    Attributes:
        ids: the ids; none if the prompt leaves no room in the model's context.
        log_probs: one an id; NaN where a server does not report it.
    """

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]


class SampleStream(ABC):
    """Sample requests in flight: more can be added while others run."""

    @abstractmethod
    def add(self, key: int, request: SampleRequest) -> None:
        """Add a request. Requests with lower keys are scheduled first."""

    @abstractmethod
    def collect(self) -> list[tuple[int, Sample]]:
        """Work until at least one request is finished, and return keys and samples of those that are;
        nothing if none is in flight.

        Raises:
            RuntimeError: if requests are in flight and a newer stream of the same sampler, or newer
                weights, ended this one.
        """


class Sampler(ABC):
    """A model that can be sampled from.

    Attributes:
        sampling_params: what is made of the model's logits before an id is drawn.
        tokenizer_size: number of ids that the tokenizer knows.
        vocab_size: number of rows in the model's output, at least ``tokenizer_size``.
        max_length: most ids of a prompt and its sample, the length of the model's context; ``None`` if
            that is not known.
        end_ids: ids with which the model ends a text or a turn, beside those that the tokenizer names.
    """

    sampling_params: SamplingParams
    tokenizer_size: int
    vocab_size: int
    max_length: int | None = None
    end_ids: frozenset[int] = frozenset()

    @abstractmethod
    def stream(self, automaton: TokenAutomaton) -> SampleStream:
        """Open a stream. Ids that the automaton forbids have probability 0 and the rest is renormalised.

        A sampler serves one stream at a time: a newer one ends the older, which raises if it still had
        requests in flight. The model's weights must not change while requests are in flight."""

    def sample(self, requests: Sequence[SampleRequest], automaton: TokenAutomaton) -> list[Sample]:
        """Return one sample for each request, in order."""
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
    ) -> list[dict[int, float]]:
        """Return, for each prompt, the log-probability of each special id that its state allows.

        They are normalised over all ids that the state allows, at temperature 1. A stream in flight is
        not disturbed."""

    def update(self, model: Any) -> None:
        """Take over the weights that a model has now, which is tuned outside this sampler. There is
        nothing to do where the sampler runs that very model.

        Raises:
            NotImplementedError: if the sampler cannot.
        """
        if model is not getattr(self, "model", None):
            raise NotImplementedError(
                f"{type(self).__name__} cannot take over the weights of another model: let it sample "
                "from the model that is tuned"
            )

    @abstractmethod
    def __fingerprint__(self) -> Mapping[str, Any]:
        """Describe settings and weights, so that a recorded search is not resumed with another model."""
