"""Strategies side by side on the same problems: their scores, and which differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from attrs import field, frozen

from rftt.evaluation.intervals import Estimate, estimate
from rftt.evaluation.paired import Difference, paired_difference
from rftt.evaluation.results import Evaluation

_OF_SAMPLES: Final = re.compile(r"(?P<arm>.+) (?P<kind>pass|majority|best)@(?P<k>\d+)\Z")

NO_GROUP: Final = "(none)"
"""The group of problems whose metadata lacks a key."""


@frozen
class Score:
    """One line of a report.

    Attributes:
        name: an arm's name, with ``pass@k``, ``majority@k`` or ``best@k`` after it where the line is of
            k of its samples.
        arm: the arm's name.
        estimate: the accuracy.
        tokens: mean sampled ids a problem.
    """

    name: str
    arm: str
    estimate: Estimate
    tokens: float


@frozen
class Comparison:
    """Two lines of a report, problem by problem.

    Attributes:
        first, second: their names.
        difference: the second less the first.
        token_ratio: the tokens of the second over those of the first; not finite if the first has none.
    """

    first: str
    second: str
    difference: Difference
    token_ratio: float


@frozen
class Report:
    """What :func:`~rftt.evaluation.compare.compare` found.

    Attributes:
        arms: evaluations on the same problems, by name.
        groups: by metadata key, the value of each problem.
        seed: of bootstraps and of tests by random draws.
    """

    arms: Mapping[str, Evaluation]
    groups: Mapping[str, tuple[str, ...]] = field(factory=dict)
    seed: int = 0
    _scores: dict[str, Score] = field(factory=dict, init=False, repr=False, eq=False)

    def scores(self) -> list[Score]:
        """Return the accuracy of each arm's chosen answers. After those of an arm of independent samples
        follow pass@k and the vote of k, and the best of k if its verifier scores answers: for k = 1, 2,
        4 and so on, and for all of its samples."""
        found = []
        for name, arm in self.arms.items():
            found.append(self.score(name))
            if not arm.independent or arm.samples < 2:
                continue
            sizes = [2**i for i in range(arm.samples.bit_length()) if 2**i < arm.samples]
            for kind in ("pass", *_choices(arm)):
                found += [self.score(f"{name} {kind}@{k}") for k in (*sizes, arm.samples)]
        return found

    def score(self, name: str) -> Score:
        """Return one line by its name: an arm's, or such as ``samples majority@8``, for any k.

        Raises:
            KeyError: naming the arms there are.
            ValueError: if the arm has no k independent samples, or no scores.
        """
        if name not in self._scores:
            self._scores[name] = self._score(name)
        return self._scores[name]

    def _score(self, name: str) -> Score:
        if name in self.arms:
            arm = self.arms[name]
            return Score(name, name, arm.chosen(seed=self.seed), arm.tokens_per_problem)
        found = _OF_SAMPLES.match(name)
        if found is None or found["arm"] not in self.arms:
            raise KeyError(
                f"no score {name!r}; there are the arms {', '.join(self.arms)}, and of those of "
                "independent samples 'ARM pass@k', 'ARM majority@k' and 'ARM best@k'"
            )
        arm, k = self.arms[found["arm"]], int(found["k"])
        at = {"pass": arm.pass_at, "majority": arm.majority_at, "best": arm.best_at}[found["kind"]]
        found_at = at(k, seed=self.seed)
        return Score(name, found["arm"], found_at, arm.tokens_per_problem * k / arm.samples)

    def compare(self, first: str, second: str) -> Comparison:
        """Compare two lines by their names, as in :meth:`score`."""
        one, other = self.score(first), self.score(second)
        difference = paired_difference(one.estimate.values, other.estimate.values, seed=self.seed)
        ratio = other.tokens / one.tokens if one.tokens else float("inf")
        return Comparison(first, second, difference, ratio)

    def comparisons(self) -> list[Comparison]:
        """Compare each arm's chosen answers with those of the first arm. Each arm that is not of
        independent samples is also compared with those of every other arm at equal tokens."""
        first, *others = self.arms
        found = [self.compare(first, name) for name in others]
        for name, arm in self.arms.items():
            if not arm.independent:
                found += [self.compare(other, name) for other in self.at_equal_tokens(name)]
        return found

    def at_equal_tokens(self, name: str) -> list[str]:
        """Return the names of the vote, and the best if they are scored, of as many samples as come
        nearest to the tokens of an arm, for each other arm of two or more independent samples.

        The most are all of its samples: the comparison says by how much the tokens still differ.
        """
        found = []
        for other, arm in self.arms.items():
            if other == name or not arm.independent or arm.samples < 2:
                continue
            per_sample = arm.tokens_per_problem / arm.samples
            wanted = self.arms[name].tokens_per_problem / per_sample if per_sample else 1.0
            k = max(1, min(arm.samples, round(wanted)))
            found += [f"{other} {kind}@{k}" for kind in _choices(arm)]
        return found

    def by_group(self, key: str) -> dict[str, dict[str, Estimate]]:
        """Return accuracies of chosen answers by the value of a metadata key, and then by arm.

        Raises:
            KeyError: naming the keys there are.
        """
        if key not in self.groups:
            raise KeyError(f"no group {key!r}; there are: {', '.join(self.groups) or 'none'}")
        labels = self.groups[key]
        values = {name: arm.chosen(seed=self.seed).values for name, arm in self.arms.items()}
        return {
            label: {name: self._of_group(shares, labels, label) for name, shares in values.items()}
            for label in sorted(set(labels), key=_natural)
        }

    def _of_group(self, shares: Sequence[float], labels: Sequence[str], label: str) -> Estimate:
        own = [share for share, other in zip(shares, labels, strict=True) if other == label]
        return estimate(own, seed=self.seed)


def _choices(arm: Evaluation) -> tuple[str, ...]:
    """Return the ways in which an answer can be chosen from an arm's samples."""
    return ("majority", "best") if arm.is_scored else ("majority",)


def _natural(label: str) -> tuple[float, str]:
    """Sort numbers as numbers, before all other text."""
    try:
        return float(label), label
    except ValueError:
        return float("inf"), label
