"""What passes between the parts, and the abstract ``Policy`` and ``Verifier``.

The road data takes, one round::

    SearchTree -> Searcher.ask -> Expansion -> GenerationRequest -> Policy.extend -> Step
        ^                                                                             |
        +--- Searcher.tell <- ExpansionResult <- Verdict <- Verifier.judge <- State --+

The abstract ``Searcher`` is in :mod:`rftt.search.searcher`, the abstract ``Learner`` in
:mod:`rftt.learners.learner`, the abstract ``Sampler`` in :mod:`rftt.samplers.sampler`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

from attrs import field, frozen, validators

from rftt.problems.problem import Problem
from rftt.tokens.grammar import Grammar

Until = Literal["step", "solution"]
"""How far a completion goes: one step, or on to the end of the solution."""


@frozen
class Step:
    """One reasoning step as it was sampled.

    Attributes:
        function: the name of the step's function.
        text: the body, decoded from the ids.
        ids: the step's token ids, opener and closer included where the policy uses functional tokens.
        log_probs: for each id, its natural log-probability under the distribution it was drawn from,
            after temperature and masks.
        action_mask: for each id, whether the policy drew it. A forced id is not a sample and must not
            be learned from as one.
        terminal: whether nothing may follow: the solution is complete, or the step is truncated.
        truncated: whether a limit ended the step before the policy did.
        body_start: the number of ids before the body: 1 where there is an opener.

    Raises:
        ValueError: if ``ids``, ``log_probs`` and ``action_mask`` differ in length.
    """

    function: str
    text: str
    ids: tuple[int, ...] = field(converter=tuple[int, ...])
    log_probs: tuple[float, ...] = field(converter=tuple[float, ...])
    action_mask: tuple[bool, ...] = field(converter=tuple[bool, ...])
    terminal: bool
    truncated: bool = False
    body_start: int = 0

    def __attrs_post_init__(self) -> None:
        if not len(self.ids) == len(self.log_probs) == len(self.action_mask):
            raise ValueError(
                f"step {self.function!r}: {len(self.ids)} ids, {len(self.log_probs)} log_probs and "
                f"{len(self.action_mask)} action_mask flags; give one of each for every id"
            )


@frozen
class State:
    """A problem and the steps so far: what a policy continues and a verifier judges."""

    problem: Problem
    steps: tuple[Step, ...] = ()

    @property
    def last(self) -> str | None:
        """The function of the last step, ``None`` at the question."""
        return self.steps[-1].function if self.steps else None


@frozen
class GenerationRequest:
    """A request for one completion: a sequence of steps that continues ``state``.

    Attributes:
        state: what is continued.
        seed: decides every draw of the completion.
        function: forces the function of the first step; ``None`` lets the policy choose.
        until: ``"step"`` ends the completion after one step.
        max_steps: most steps.
        max_tokens: most sampled ids; forced ids do not count.
        prefix: forces the first ids of the first step's body.
    """

    state: State
    seed: int
    function: str | None = None
    until: Until = "solution"
    max_steps: int = field(default=18, validator=validators.ge(1))
    max_tokens: int = field(default=512, validator=validators.ge(1))
    prefix: tuple[int, ...] = ()


class StepStream(ABC):
    """Generation requests in flight: more can be added while others run."""

    @abstractmethod
    def add(self, key: int, request: GenerationRequest) -> None:
        """Add a request. Requests with lower keys are scheduled first."""

    @abstractmethod
    def collect(self) -> Sequence[tuple[int, Sequence[Step]]]:
        """Work until at least one request is finished, and return keys and completions of those that
        are; nothing if none is in flight."""


class Policy(ABC):
    """Samples the next steps of a state."""

    grammar: Grammar

    @abstractmethod
    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        """Return, for each state, the log-probability of each function that may follow."""

    @abstractmethod
    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        """Return, for each request, a completion: at least one step, within the grammar and the
        request's limits. A completion depends on its own request alone."""

    def stream(self) -> StepStream:
        """Open a stream of requests. This default passes all that were added to :meth:`extend` in one
        call; a policy that can finish some requests before others overrides it."""
        return _ExtendStream(self)


class _ExtendStream(StepStream):
    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._added: dict[int, GenerationRequest] = {}

    def add(self, key: int, request: GenerationRequest) -> None:
        self._added[key] = request

    def collect(self) -> Sequence[tuple[int, Sequence[Step]]]:
        if not self._added:
            return []
        added, self._added = self._added, {}
        completions = self._policy.extend(list(added.values()))
        if len(completions) != len(added):
            raise ValueError(
                f"{type(self._policy).__name__}.extend returned {len(completions)} completions for "
                f"{len(added)} requests; return one for each, in order"
            )
        return list(zip(added, completions, strict=True))


@frozen
class Verdict:
    """A verifier's judgement of one state.

    Attributes:
        score: the reward; ``None`` where the verifier abstains (no gold answer, timed out, server
            down). An abstention is never a silent 0.
        answer: the extracted answer, as the model wrote it; ``None`` if there is none.
        reason: why the score is what it is.
        step_scores: one score a step, if the verifier scores steps.

    Raises:
        ValueError: if a score is NaN or infinite.
    """

    score: float | None
    answer: str | None = None
    reason: str = ""
    step_scores: tuple[float, ...] | None = None

    def __attrs_post_init__(self) -> None:
        for score in (self.score, *(self.step_scores or ())):
            if score is not None and not math.isfinite(score):
                raise ValueError(
                    f"verdict: the score {score} is not a finite number; a verifier that cannot score "
                    "a solution abstains with score=None and a reason"
                )


class Verifier(ABC):
    """Judges solutions, complete or partial."""

    @abstractmethod
    def judge(self, states: Sequence[State]) -> list[Verdict]:
        """Return one verdict for each state, in order. The states may be of any mix of problems; a
        verdict depends on its own state alone."""

    def equivalent(self, a: str, b: str) -> bool | None:
        """Whether two answers are the same, for votes and for marking against a gold answer; ``None``
        if that cannot be decided. The default compares the texts."""
        return a.strip() == b.strip()
