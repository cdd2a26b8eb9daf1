"""What verifiers that are models share: answers from another verifier, abstentions that are counted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from attrs import evolve, frozen

from rftt.interfaces import State, Verdict, Verifier
from rftt.verifiers.forks import ForkLock

_log: Final = logging.getLogger(__name__)


_counting: Final = ForkLock()


@frozen
class Unscored:
    """Why a model has no score for a state.

    Attributes:
        reason: what the verdict says.
        is_fault: whether it is counted and logged. A state without steps has nothing to score, which is
            no fault.
    """

    reason: str
    is_fault: bool = True


class ModelVerifier(Verifier):
    """A verifier that is a model: it scores, and leaves answers to another verifier.

    That other verifier extracts answers and compares them. It is shown problems without their gold
    answer, so nothing of the gold answer gets into a verdict.

    Args:
        answers: gives answers and compares them; its scores are not used. Without it a verdict has no
            answer, and answers are compared as texts.
    """

    def __init__(self, answers: Verifier | None) -> None:
        self.answers = answers
        self.abstained = 0

    def equivalent(self, a: str, b: str) -> bool | None:
        if self.answers is not None:
            return self.answers.equivalent(a, b)
        return super().equivalent(a, b)

    def _answers(self, states: Sequence[State]) -> list[str | None]:
        if self.answers is None:
            return [None] * len(states)
        without_gold = [evolve(state, problem=evolve(state.problem, answer=None)) for state in states]
        return [verdict.answer for verdict in self.answers.judge(without_gold)]

    def _abstain(self, state: State, answer: str | None, unscored: Unscored) -> Verdict:
        """Return a verdict without a score. Faults are counted in ``abstained``, and the log has a
        warning for the 1st, the 10th, the 100th and so on: one fault often comes with many."""
        if unscored.is_fault:
            with _counting:
                self.abstained += 1
                count = self.abstained
            if str(count).strip("0") == "1":
                _log.warning(
                    "%s abstained from %d states so far; the last is of problem %r: %s",
                    type(self).__name__, count, state.problem.id, unscored.reason,
                )  # fmt: skip
        return Verdict(None, answer, unscored.reason)
