"""What passes between the parts, and the abstract ``Policy`` and ``Verifier``.

The road: a searcher asks to extend a :class:`State`; the engine turns that into an
:class:`Extension`; a :class:`Policy` answers with :class:`Segment` s; the whole path is a
:class:`Solution`, on which a :class:`Verifier` gives a :class:`Verdict`. The abstract ``Searcher``
is in :mod:`rftt.search.searcher`, the abstract ``Learner`` in :mod:`rftt.learners.learner`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from attrs import field, frozen, validators

from rftt.problems.problem import Problem
from rftt.tokens.grammar import Grammar

Until = Literal["step", "answer"]


def _ids(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(values)


def _floats(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(values)


def _flags(values: Iterable[bool]) -> tuple[bool, ...]:
    return tuple(values)


@frozen
class Segment:
    """One reasoning step as it was sampled.

    ``ids`` are the step's token ids, opener and closer included where the policy uses functional
    tokens. ``log_probs`` holds, for each id, its natural log-probability under the distribution it
    was drawn from (temperature, masks and all). ``chosen`` says which ids the policy drew itself:
    an id forced by the searcher is not a sample and must not be learned from as one. ``text`` is
    the body, decoded from the ids.
    """

    function: str
    text: str
    ids: tuple[int, ...] = field(converter=_ids)
    log_probs: tuple[float, ...] = field(converter=_floats)
    chosen: tuple[bool, ...] = field(converter=_flags)
    is_final: bool
    """Whether nothing may follow: the solution is complete, or this step was cut short."""
    is_cut: bool = False
    """Whether a limit ended the step before the policy did."""
    body_start: int = 0
    """How many ids stand before the body: 1 where an opener does."""

    def __attrs_post_init__(self) -> None:
        if not len(self.ids) == len(self.log_probs) == len(self.chosen):
            raise ValueError(
                f"segment {self.function!r}: {len(self.ids)} ids, {len(self.log_probs)} log_probs and "
                f"{len(self.chosen)} chosen flags; give one of each for every id"
            )


@frozen
class State:
    """Where a policy stands: a problem and the steps so far."""

    problem: Problem
    steps: tuple[Segment, ...] = ()

    @property
    def last(self) -> str | None:
        """The name of the last function, ``None`` at the question."""
        return self.steps[-1].function if self.steps else None


@frozen
class Extension:
    """A request for one sample that continues ``state``.

    The reply is a chain of at least one and at most ``max_steps`` segments, with at most
    ``max_tokens`` ids in all: one segment when ``until`` is ``"step"``, else on to the answer.
    ``function`` forces the first step's function, ``prefix`` the first ids of its body.
    All chance in the reply comes from ``seed``.
    """

    state: State
    seed: int
    function: str | None = None
    until: Until = "answer"
    max_steps: int = field(default=18, validator=validators.ge(1))
    max_tokens: int = field(default=512, validator=validators.ge(1))
    prefix: tuple[int, ...] = ()


class ChainStream(ABC):
    """Extensions under way: more can be asked for while others still run."""

    @abstractmethod
    def add(self, key: int, request: Extension) -> None:
        """Ask for one more. Where there is more to do than can be done at once, lower keys go first."""

    @abstractmethod
    def collect(self) -> Sequence[tuple[int, Sequence[Segment]]]:
        """Work until at least one is done; keys and chains of those that are. Empty when none is under
        way."""


class Policy(ABC):
    """How a state becomes the next steps."""

    grammar: Grammar

    @abstractmethod
    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        """For each state, the log-probability of each function that may follow."""

    @abstractmethod
    def extend(self, requests: Sequence[Extension]) -> list[list[Segment]]:
        """For each request, a chain of sampled steps that obeys the grammar."""

    def stream(self) -> ChainStream:
        """An empty stream. This default extends all that has been added in one call; policies that can
        go on with some requests while others are done do better."""
        return _Calls(self)


class _Calls(ChainStream):
    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._added: dict[int, Extension] = {}

    def add(self, key: int, request: Extension) -> None:
        self._added[key] = request

    def collect(self) -> Sequence[tuple[int, Sequence[Segment]]]:
        added, self._added = self._added, {}
        return list(zip(added, self._policy.extend(list(added.values())), strict=True))


def _segments(values: Iterable[Segment]) -> tuple[Segment, ...]:
    return tuple(values)


@frozen
class Solution:
    """The steps from the question to where a rollout ended."""

    steps: tuple[Segment, ...] = field(converter=_segments)


@frozen
class Verdict:
    """What a verifier says of one solution.

    ``score`` is ``None`` when the verifier abstains: no gold answer, timed out, server down. It is
    never a silent 0. ``answer`` is the extracted answer in a form in which equal answers have
    equal text, so that votes can be counted. ``step_scores`` has one score a step, if given.
    """

    score: float | None
    answer: str | None = None
    reason: str = ""
    step_scores: tuple[float, ...] | None = None


class Verifier(ABC):
    """Judges solutions."""

    @abstractmethod
    def judge(self, problem: Problem, solutions: Sequence[Solution]) -> list[Verdict]:
        """One verdict for each solution, in order."""
