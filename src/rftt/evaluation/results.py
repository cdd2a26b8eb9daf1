"""What an evaluation found: each problem's answer and mark, and what follows from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import attrs
from attrs import define, field, frozen

from rftt.evaluation.estimators import best_at_k, majority_at_k, pass_at_k
from rftt.evaluation.intervals import Estimate, estimate

_T = TypeVar("_T")


@frozen
class Rollout:
    """One rollout of a problem's search, marked.

    Attributes:
        answer: as the model wrote it; ``None`` if the rollout reached none.
        right: the mark; ``None`` without an answer, or if it could not be decided.
        score: the searching verifier's, which did not see the gold answer; ``None`` if it abstained.
        group: numbers the tree's groups of equivalent answers; ``None`` without an answer.
    """

    answer: str | None
    right: bool | None
    score: float | None = None
    group: int | None = None


@frozen
class Result:
    """One problem, searched with one seed.

    Attributes:
        problem: its id.
        seed: of the search.
        answer: the answer that was chosen; ``None`` if there was none.
        right: its mark; ``None`` without an answer, or if it could not be decided.
        tokens: sampled ids.
        rollouts: all of the tree's, in the order of their ends.
    """

    problem: str
    seed: int
    answer: str | None
    right: bool | None
    tokens: int
    rollouts: tuple[Rollout, ...]


@define(slots=False, frozen=True)
class Evaluation:
    """How many problems one strategy answered right, and with how many tokens.

    Attributes:
        results: one for each problem and seed.
        functions: steps by function.
        independent: whether the rollouts of a tree are independent samples, as many for each problem:
            what :meth:`pass_at`, :meth:`majority_at` and :meth:`best_at` are made of.
        settings: fingerprints of all that the results depend on.
        versions: of the libraries that they were made with.
    """

    results: tuple[Result, ...]
    functions: Mapping[str, int] = field(factory=dict)
    independent: bool = False
    settings: Mapping[str, Any] = field(factory=dict)
    versions: Mapping[str, str] = field(factory=dict)

    @property
    def marks(self) -> tuple[bool, ...]:
        """Whether each result is right; undecided is not right."""
        return tuple(result.right is True for result in self.results)

    @property
    def accuracy(self) -> float:
        """The share of results that are right."""
        return sum(self.marks) / len(self.marks)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the accuracy: Wilson's, or over several seeds a bootstrap's."""
        found = self.chosen()
        return found.low, found.high

    @property
    def tokens(self) -> int:
        """Sampled ids of all searches; not those that a verifier that is a model reads or writes."""
        return sum(result.tokens for result in self.results)

    @property
    def tokens_per_problem(self) -> float:
        """Mean sampled ids of one search of one problem."""
        return self.tokens / len(self.results)

    @property
    def samples(self) -> int:
        """The number of rollouts of the problem that has the fewest."""
        return min(len(result.rollouts) for result in self.results)

    @property
    def unanswered(self) -> float:
        """The share of rollouts without an answer."""
        rollouts = [rollout for result in self.results for rollout in result.rollouts]
        return sum(rollout.answer is None for rollout in rollouts) / max(1, len(rollouts))

    @property
    def is_scored(self) -> bool:
        """Whether the searching verifier scored answers without their gold answers."""
        return any(
            rollout.score is not None and rollout.answer is not None
            for result in self.results
            for rollout in result.rollouts
        )

    @cached_property
    def _by_problem(self) -> list[list[Result]]:
        found: dict[str, list[Result]] = {}
        for result in self.results:
            found.setdefault(result.problem, []).append(result)
        return list(found.values())

    def _estimate(self, share: Callable[[Result], float], seed: int) -> Estimate:
        shares = [sum(map(share, own)) / len(own) for own in self._by_problem]
        return estimate(shares, seed=seed)

    def chosen(self, *, seed: int = 0) -> Estimate:
        """Estimate the accuracy of the chosen answers; a problem's share is over its seeds.

        Args:
            seed: of the bootstrap, where there is one.
        """
        return self._estimate(lambda result: float(result.right is True), seed)

    def coverage(self, *, seed: int = 0) -> Estimate:
        """Estimate the share of problems of which some rollout is right, whatever the search."""
        return self._estimate(
            lambda result: float(any(rollout.right is True for rollout in result.rollouts)), seed
        )

    def pass_at(self, k: int, *, seed: int = 0) -> Estimate:
        """Estimate the share of problems of which one of k samples is right.

        Raises:
            ValueError: if the rollouts are not independent samples, or there are fewer than k.
        """
        self._check_samples(f"pass@{k}", k)
        return self._estimate(
            lambda r: pass_at_k(len(r.rollouts), sum(s.right is True for s in r.rollouts), k), seed
        )

    def majority_at(self, k: int, *, seed: int = 0) -> Estimate:
        """Estimate the accuracy of the vote of k samples, whatever ``choose`` was.

        Raises:
            ValueError: if the rollouts are not independent samples, or there are fewer than k.
        """
        self._check_samples(f"majority@{k}", k)

        def share(result: Result) -> float:
            votes = Counter(s.group for s in result.rollouts if s.group is not None)
            right = Counter(s.group for s in result.rollouts if s.right is True)
            groups = [(size, right[group] / size) for group, size in votes.items()]
            return majority_at_k(groups, len(result.rollouts) - votes.total(), k)

        return self._estimate(share, seed)

    def best_at(self, k: int, *, seed: int = 0) -> Estimate:
        """Estimate the accuracy of the best-scored of k samples.

        An answer on which the verifier abstained ranks below every score.

        Raises:
            ValueError: if the verifier scored no answer, the rollouts are not independent samples, or
                there are fewer than k.
        """
        self._check_samples(f"best@{k}", k)
        if not self.is_scored:
            raise ValueError(
                f"best@{k}: the verifier scored no answer without its gold answer; give one that can, "
                "such as a reward model"
            )
        return self._estimate(lambda r: best_at_k([_ranked(s) for s in r.rollouts], k), seed)

    def _check_samples(self, name: str, k: int) -> None:
        if not self.independent:
            raise ValueError(
                f"{name} is of independent samples: evaluate with BestOfN() and Budget(rollouts=n) "
                "without another limit"
            )
        if not 1 <= k <= self.samples:
            fewest = min(self.results, key=lambda result: len(result.rollouts))
            raise ValueError(
                f"{name}: problem {fewest.problem!r} has {self.samples} rollouts; choose k from 1 to "
                f"{self.samples}, or evaluate with more"
            )


def _ranked(sample: Rollout) -> tuple[float | None, bool]:
    if sample.answer is None:
        return None, False
    return float("-inf") if sample.score is None else sample.score, sample.right is True


def evaluation_to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return the evaluation as JSON-able data."""
    return attrs.asdict(evaluation)


def evaluation_from_json(data: Mapping[str, Any]) -> Evaluation:
    """Return the evaluation that :func:`evaluation_to_json` made the data of.

    Raises:
        KeyError, TypeError: if the data is not an evaluation.
    """
    return Evaluation(**{**data, "results": _tuple(_result, data["results"])})


def _result(data: Mapping[str, Any]) -> Result:
    return Result(**{**data, "rollouts": _tuple(lambda each: Rollout(**each), data["rollouts"])})


def _tuple(
    make: Callable[[Mapping[str, Any]], _T], items: Sequence[Mapping[str, Any]]
) -> tuple[_T, ...]:
    return tuple(make(item) for item in items)
