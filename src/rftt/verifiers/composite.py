"""One verifier made of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from attrs import field, frozen, validators

from rftt.interfaces import State, Verdict, Verifier

Rule = Literal["mean", "first", "agree"]
Abstention = Literal["abstain", "skip"]


@frozen(eq=False)
class CompositeVerifier(Verifier):
    """Combine verifiers into one, in the order in which they are named.

    The score is made by the rule: ``"mean"`` is the weighted mean; ``"first"`` is that of the first
    member that does not abstain, and later ones are not asked where an earlier one decides; ``"agree"``
    is the score that all give, and where they differ the verifier abstains. If all members abstain, so
    does the verifier, and gives their reasons.

    The answer is that of the first member that was asked and has one. Two answers are compared by the
    first member that decides. Steps are scored as ``steps_from`` says: by that member; without it by the
    deciding member under ``"first"``, and otherwise by the weighted mean of those that count towards the
    score, where each of them scores steps.

    Attributes:
        members: verifiers by name, such as ``{"rule": MathVerifier(), "prm": ...}``.
        rule: how scores are combined.
        weights: for ``"mean"``, one a member, at least 0; equal by default.
        abstention: for ``"mean"`` and ``"agree"``, what a member that abstains does. ``"abstain"``: the
            verifier abstains. ``"skip"``: the others decide, and under ``"mean"`` their weights are
            scaled up, so that an abstention pays where the others score high.
        steps_from: the member whose step scores are taken, also where it does not decide.
        tolerance: for ``"agree"``, the largest difference of scores that count as the same; the score
            is then their mean.

    Raises:
        ValueError: naming a setting that fits nothing: no members, a weight that is negative, missing or
            of nobody, weights under another rule, an unknown ``steps_from``.
    """

    members: Mapping[str, Verifier]
    rule: Rule = field(default="mean", validator=validators.in_(("mean", "first", "agree")))
    weights: Mapping[str, float] | None = None
    abstention: Abstention = field(default="abstain", validator=validators.in_(("abstain", "skip")))
    steps_from: str | None = None
    tolerance: float = field(default=0.0, validator=validators.ge(0.0))

    def __attrs_post_init__(self) -> None:
        if not self.members:
            raise ValueError("members: there are none; give at least one verifier by name")
        if self.steps_from is not None and self.steps_from not in self.members:
            raise ValueError(f"steps_from: {self.steps_from!r} is none of {[*self.members]}")
        if self.weights is None:
            return
        if self.rule != "mean":
            raise ValueError(f"weights: the rule {self.rule!r} has none; leave them out")
        if wrong := sorted(self.weights.keys() ^ self.members.keys()):
            raise ValueError(f"weights: {wrong[0]!r} is a member without a weight, or no member at all")
        if any(not (math.isfinite(w) and w >= 0) for w in self.weights.values()):
            raise ValueError(f"weights: {dict(self.weights)} are not all finite and at least 0")
        if not sum(self.weights.values()) > 0:
            raise ValueError("weights: all are 0, so that nobody decides")

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        given: list[dict[str, Verdict]] = [{} for _ in states]
        for name, member in self.members.items():
            asked = [n for n, verdicts in enumerate(given) if self._asks(name, verdicts)]
            if not asked:
                continue
            verdicts = member.judge([states[n] for n in asked])
            if len(verdicts) != len(asked):
                raise ValueError(
                    f"member {name!r}, a {type(member).__name__}, returned {len(verdicts)} verdicts for "
                    f"{len(asked)} states; return one for each, in order"
                )
            for n, verdict in zip(asked, verdicts, strict=True):
                given[n][name] = verdict
        return [self._combined(verdicts) for verdicts in given]

    def _asks(self, name: str, verdicts: Mapping[str, Verdict]) -> bool:
        """Whether a member is asked of a state that others have judged."""
        is_open = all(verdict.score is None for verdict in verdicts.values())
        return self.rule != "first" or name == self.steps_from or is_open

    def equivalent(self, a: str, b: str) -> bool | None:
        found = (member.equivalent(a, b) for member in self.members.values())
        return next((decided for decided in found if decided is not None), None)

    def _combined(self, verdicts: Mapping[str, Verdict]) -> Verdict:
        score, counted, reason = self._score(verdicts)
        answer = next((v.answer for v in verdicts.values() if v.answer is not None), None)
        if self.steps_from is not None:
            steps = verdicts[self.steps_from].step_scores
        else:
            steps = self._mean_steps(counted, verdicts)
        return Verdict(score, answer, reason, steps)

    def _score(self, verdicts: Mapping[str, Verdict]) -> tuple[float | None, list[str], str]:
        """Return the score, the members that count towards it, and the reason."""
        scores = {name: v.score for name, v in verdicts.items() if v.score is not None}
        silent = [name for name, verdict in verdicts.items() if verdict.score is None]
        abstained = "; ".join(f"{name} abstained: {verdicts[name].reason}" for name in silent)
        if not scores:
            return None, [], abstained
        if self.rule == "first":
            name = next(iter(scores))
            said = f"{name}: {verdicts[name].reason}" if verdicts[name].reason else name
            return scores[name], [name], said
        if silent and self.abstention == "abstain":
            return None, [], abstained
        said = ", ".join(f"{name} {score:g}" for name, score in scores.items())
        said = f"{said}; {abstained}" if abstained else said
        if self.rule == "agree" and max(scores.values()) - min(scores.values()) > self.tolerance:
            return None, [], f"the members differ: {said}"
        total = sum(self._weight(name) for name in scores)
        if not total > 0:
            return None, [], f"only members of weight 0 have a score: {said}"
        mean = math.fsum(self._weight(name) * score for name, score in scores.items()) / total
        # Rounding must not make a score of several that agree.
        mean = min(max(mean, min(scores.values())), max(scores.values()))
        return mean, [*scores], said

    def _weight(self, name: str) -> float:
        return 1.0 if self.weights is None else self.weights[name]

    def _mean_steps(
        self, counted: Sequence[str], verdicts: Mapping[str, Verdict]
    ) -> tuple[float, ...] | None:
        scored = [(self._weight(name), verdicts[name].step_scores) for name in counted]
        columns = [(weight, steps) for weight, steps in scored if steps is not None]
        if not columns or len(columns) < len(scored):
            return None
        if len({len(steps) for _, steps in columns}) > 1:
            raise ValueError(
                f"members {[*counted]} score different numbers of steps of one state: "
                f"{[len(steps) for _, steps in columns]}; each must score every step"
            )
        total = sum(weight for weight, _ in columns)
        weights = [weight for weight, _ in columns]
        return tuple(
            math.fsum(w * s for w, s in zip(weights, scores, strict=True)) / total
            for scores in zip(*(steps for _, steps in columns), strict=True)
        )
