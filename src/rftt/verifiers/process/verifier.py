"""Verifiers that score each step of a solution by a process reward model, here or elsewhere."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from transformers import PreTrainedTokenizerBase

from rftt.aggregation import Aggregation
from rftt.interfaces import State, Step, Verdict, Verifier
from rftt.verifiers.model_verdicts import ModelVerifier, Unscored
from rftt.verifiers.process.formats import ProcessFormat, ScoredIds

StepText = Callable[[Step], str]
"""What a process reward model is shown of a step."""

_PROBE: Final = "What is 1+1?", ("1+1=2", "The answer is 2")
"""What formats and texts are compared by in fingerprints, and tried on when a verifier is made."""


def step_body(step: Step) -> str:
    """Return a step's body: published models do not know functions."""
    return step.text.strip()


def step_with_function(step: Step) -> str:
    """Return a step's function and body, such as ``verify: 2 * 3 is 6``."""
    return f"{step.function}: {step.text.strip()}"


class ProcessVerifier(ModelVerifier):
    """Scores each step of a state, and the state by an aggregation of the scores of its steps.

    All states of a call are scored together. A state is abstained from, with the reason in its verdict,
    if it has no steps, if its ids are too many, or if the model gives anything but one finite score a
    step; all but the first are counted in ``abstained`` and logged.

    Args:
        tokenizer: the model's.
        format: how the model is shown a solution.
        aggregation: makes the state's score of those of its steps.
        answers: extracts and compares answers, such as :class:`~rftt.verifiers.math.MathVerifier`.
        step_text: what the model is shown of a step.
        max_tokens: most ids of a state; ``None`` for no limit here.

    Raises:
        ValueError: if the tokenizer is not one for the format.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        format: ProcessFormat,
        *,
        aggregation: Aggregation,
        answers: Verifier | None,
        step_text: StepText,
        max_tokens: int | None,
    ) -> None:
        super().__init__(answers)
        self.tokenizer = tokenizer
        self.format = format
        self.aggregation = aggregation
        self.step_text = step_text
        self.max_tokens = max_tokens
        self._probe = format.lay_out(tokenizer, *_PROBE)
        self._labels = format.labels(tokenizer)

    def __fingerprint__(self) -> Mapping[str, Any]:
        return {
            "format": self.format,
            "ids": self._probe.ids,
            "labels": self._labels,
            "aggregation": self.aggregation,
            "answers": self.answers,
            "step_text": self.step_text,
            "max_tokens": self.max_tokens,
        }

    @abstractmethod
    def step_scores(self, solutions: Sequence[ScoredIds]) -> Sequence[Sequence[float] | Unscored]:
        """Return for each solution the scores of its steps, or why there are none. The scores of a
        solution depend on it alone."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        answers = self._answers(states)
        laid_out = [self._lay_out(state) for state in states]
        solutions = [one for one in laid_out if isinstance(one, ScoredIds)]
        scored = iter(self.step_scores(solutions) if solutions else ())
        return [
            self._verdict(state, answer, next(scored) if isinstance(one, ScoredIds) else one)
            for state, answer, one in zip(states, answers, laid_out, strict=True)
        ]

    def _lay_out(self, state: State) -> ScoredIds | Unscored:
        if not state.steps:
            return Unscored("there is no step to score yet", is_fault=False)
        try:
            solution = self.format.lay_out(
                self.tokenizer, state.problem.question, [self.step_text(step) for step in state.steps]
            )
        except ValueError as error:
            return Unscored(str(error))
        if self.max_tokens is not None and len(solution.ids) > self.max_tokens:
            return Unscored(
                f"the question and its {len(state.steps)} steps have {len(solution.ids)} ids, and the "
                f"model takes {self.max_tokens}"
            )
        return solution

    def _verdict(self, state: State, answer: str | None, scores: Sequence[float] | Unscored) -> Verdict:
        if not isinstance(scores, Unscored):
            scores = _checked(scores, len(state.steps))
        if isinstance(scores, Unscored):
            return self._abstain(state, answer, scores)
        return Verdict(self.aggregation(scores), answer, step_scores=tuple(scores))


def _checked(scores: Sequence[float], steps: int) -> Sequence[float] | Unscored:
    if len(scores) != steps:
        return Unscored(f"the model gave {len(scores)} scores for {steps} steps")
    for step, score in enumerate(scores):
        if not math.isfinite(score):
            return Unscored(f"step {step} of {steps}: the model gave {score}, not a finite number")
    return scores
