"""Where a round's replies come from: a policy and a verifier, or the record of an earlier run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import islice

from rftt.interfaces import Extension, Policy, Segment, Solution, State, Verdict, Verifier
from rftt.problems.problem import Problem
from rftt.search.run_directory import Round


class Source(ABC):
    """What one round needs from outside the tree."""

    @abstractmethod
    def priors(self, states: Sequence[State]) -> Sequence[Mapping[str, float]]:
        """As ``Policy.prior``."""

    @abstractmethod
    def chains(self, requests: Sequence[Extension]) -> Sequence[Sequence[Segment]]:
        """As ``Policy.extend``."""

    @abstractmethod
    def verdicts(self, problem: Problem, solutions: Sequence[Solution]) -> Sequence[Verdict]:
        """As ``Verifier.judge``."""


class Fresh(Source):
    """One round's replies, from the policy and the verifier themselves; they are noted down."""

    def __init__(self, policy: Policy, verifier: Verifier) -> None:
        self._policy, self._verifier = policy, verifier
        self._priors: list[Mapping[str, float]] = []
        self._chains: list[tuple[Segment, ...]] = []
        self._verdicts: list[Verdict] = []

    def priors(self, states: Sequence[State]) -> Sequence[Mapping[str, float]]:
        priors = self._policy.prior(states)
        self._priors += priors
        return priors

    def chains(self, requests: Sequence[Extension]) -> Sequence[Sequence[Segment]]:
        chains = self._policy.extend(requests)
        self._chains += map(tuple, chains)
        return chains

    def verdicts(self, problem: Problem, solutions: Sequence[Solution]) -> Sequence[Verdict]:
        verdicts = self._verifier.judge(problem, solutions)
        self._verdicts += verdicts
        return verdicts

    def round(self) -> Round:
        """All replies so far."""
        return Round(tuple(self._priors), tuple(self._chains), tuple(self._verdicts))


class Streamed(Fresh):
    """As :class:`Fresh`, for chains that a stream has given already."""

    def __init__(self, policy: Policy, verifier: Verifier, chains: Sequence[Sequence[Segment]]) -> None:
        super().__init__(policy, verifier)
        self._streamed = chains

    def chains(self, requests: Sequence[Extension]) -> Sequence[Sequence[Segment]]:
        return self._streamed


class Recorded(Source):
    """One round's replies as they were recorded."""

    def __init__(self, recorded: Round) -> None:
        self._priors = iter(recorded.priors)
        self._chains = iter(recorded.chains)
        self._verdicts = iter(recorded.verdicts)

    def priors(self, states: Sequence[State]) -> Sequence[Mapping[str, float]]:
        return list(islice(self._priors, len(states)))

    def chains(self, requests: Sequence[Extension]) -> Sequence[Sequence[Segment]]:
        return list(islice(self._chains, len(requests)))

    def verdicts(self, problem: Problem, solutions: Sequence[Solution]) -> Sequence[Verdict]:
        return list(islice(self._verdicts, len(solutions)))
