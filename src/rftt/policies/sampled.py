"""Policies over a sampler: a generator for each request says what to sample next."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Final

import torch
from attrs import evolve

from rftt.interfaces import GenerationRequest, Policy, Step, StepStream
from rftt.problems.problem import Problem
from rftt.samplers.sampler import Sample, Sampler, SampleRequest
from rftt.samplers.sampling import SamplingParams
from rftt.tokens.automaton import TokenAutomaton

_LOG: Final = logging.getLogger(__name__)

StepGenerator = Generator[SampleRequest, Sample, list[Step]]
"""Yields sample requests, is sent their samples, and returns a completion."""

PROBE = Problem("probe", "What is 1+1?", "2")
"""The problem by whose text two ``question`` callables are compared."""


class ContextLengthError(ValueError):
    """A prompt that leaves no room in the model's context."""


class SampledPolicy(Policy):
    """A policy whose tokens come from a sampler. Each request has a generator of its own, so none
    waits for another.

    A sample ends with the model's context. A prompt that leaves no room in it is not computed: its
    generator is thrown a :class:`ContextLengthError` that names the lengths, and ends its request with a
    truncated step, see :meth:`overlong_step`.

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

    def overlong_step(
        self, problem: Problem, function: str, ids: tuple[int, ...], error: ContextLengthError
    ) -> Step:
        """Return the step that ends a request whose prompt leaves no room, with a warning in the log.

        Args:
            problem: the request's.
            function: the function of the step.
            ids: its forced ids.
            error: what was thrown.
        """
        _LOG.warning(
            "problem %r: %s; its solution ends there, truncated. Ask for fewer or shorter steps, give "
            "fewer examples, or take a model with a longer context",
            problem.id, error,
        )  # fmt: skip
        return Step(
            function=function,
            text="",
            ids=ids,
            log_probs=(0.0,) * len(ids),
            action_mask=(False,) * len(ids),
            terminal=True,
            truncated=True,
            body_start=min(1, len(ids)) if self.automaton.within else 0,
        )

    def check_prefix(self, request: GenerationRequest) -> None:
        """Check that a body may hold the ids that a request forces.

        Raises:
            ValueError: naming the first that it may not: one that opens or ends a step, or is special.
        """
        within = self.automaton.within
        # Where steps are marked by ids, a prefix without a function is refused by ``steps``.
        if not request.prefix or (within and request.function not in within):
            return
        state = within.get(request.function or "", self.automaton.between[None])
        allowed = self.automaton.mask(torch.tensor([state]))[0]
        ends = self.automaton.closes(torch.tensor(request.prefix)).tolist()
        functional = self.automaton.special_ids.tolist() if within else []
        for token, is_end in zip(request.prefix, ends, strict=True):
            if is_end or not 0 <= token < len(allowed) or not allowed[token]:
                kind = "functional" if token in functional else "control"
                raise ValueError(
                    f"problem {request.state.problem.id!r}: a prefix is the start of a body, and no "
                    f"body holds the {kind} token {token}; force ids that were sampled in one"
                )

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        for request in requests:
            self.check_prefix(request)
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
        self._check_prefix = policy.check_prefix
        self._max_length = policy.sampler.max_length
        self._samples = policy.sampler.stream(policy.automaton)
        self._running: dict[int, tuple[StepGenerator, SampleRequest]] = {}
        self._finished: list[tuple[int, list[Step]]] = []

    def add(self, key: int, request: GenerationRequest) -> None:
        self._check_prefix(request)
        self.start(key, self._steps(request))

    def start(self, key: int, generator: StepGenerator) -> None:
        """Add a generator that has not begun."""
        self._advance(key, generator, partial(next, generator))

    def collect(self) -> list[tuple[int, list[Step]]]:
        while not self._finished and (samples := self._samples.collect()):
            for key, sample in samples:
                generator, request = self._running.pop(key)
                if sample.ids:
                    self._advance(key, generator, partial(generator.send, sample))
                else:
                    error = _no_room(request, self._max_length)
                    self._advance(key, generator, partial(generator.throw, error))
        finished, self._finished = self._finished, []
        return finished

    def _advance(self, key: int, generator: StepGenerator, go_on: Callable[[], SampleRequest]) -> None:
        """Run a generator on to its next sample request that has room in the model's context, or to its
        end."""
        try:
            request = go_on()
            while (room := self._room(request)) < 1:
                request = generator.throw(_no_room(request, self._max_length))
        except StopIteration as end:
            self._finished.append((key, end.value))
            return
        self._samples.add(key, evolve(request, max_tokens=min(request.max_tokens, room)))
        self._running[key] = generator, request

    def _room(self, request: SampleRequest) -> int:
        if self._max_length is None:
            return request.max_tokens
        return self._max_length - len(request.prompt)


def _no_room(request: SampleRequest, max_length: int | None) -> ContextLengthError:
    length = len(request.prompt)
    if max_length is None or length < max_length:
        return ContextLengthError(
            f"a prompt of {length} ids and up to {request.max_tokens} more are too many for the server"
        )
    return ContextLengthError(
        f"a prompt of {length} ids leaves no room in the model's context of {max_length}"
    )


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
