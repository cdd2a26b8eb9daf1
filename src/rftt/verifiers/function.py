"""A verifier made of any callable."""

from __future__ import annotations

import logging
import numbers
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from attrs import define, evolve, field, frozen, validators

from rftt.interfaces import State, Verdict, Verifier
from rftt.verifiers.extraction import Extraction

_log = logging.getLogger(__name__)

Comparison = Callable[[str, str], bool | None]
"""Whether two answers are the same; ``None`` if that cannot be decided."""

_PARTIAL: Final = "the solution is not complete, and the function scores complete ones"


@frozen
class OnText:
    """A function of texts as one of states.

    Attributes:
        function: takes the solution's text and the gold answer, and returns a score, a verdict, or
            ``None`` to abstain.
        whole: whether the text is all steps, joined by new lines, or the last step alone.
    """

    function: Callable[[str, str | None], Any]
    whole: bool = True

    def __call__(self, state: State) -> Any:
        texts = [step.text for step in state.steps]
        return self.function("\n".join(texts if self.whole else texts[-1:]), state.problem.answer)


@define(eq=False)
class FunctionVerifier(Verifier):
    """Score solutions by a function.

    The function gets a state and returns a number, a truth value, a :class:`Verdict`, or ``None`` to
    abstain. :class:`OnText` makes one of a function of texts. It is called once a state, in the thread
    of the caller, and must depend on the state alone; nothing limits its time.

    For runs that are recorded, and to be pickled, it must be a function of a module, a
    :class:`functools.partial` or a callable class: a lambda has neither a fingerprint nor a pickle.

    Attributes:
        function: scores a state.
        extraction: finds the answer in the text of the last step; without it, and without an answer in
            the function's own verdict, there is none, and votes cannot be counted.
        comparison: whether two answers are equivalent; texts are compared by default.
        scores_partial: whether the function scores partial solutions too: without steps, unfinished or
            truncated. If not, the verifier abstains on those, and the function does not see them.
        errors: what an exception of the function does: ``"raise"`` ends the run with the problem's id,
            ``"abstain"`` abstains, and warns at error 1, 10, 100 and so on.

    Raises:
        ValueError: from :meth:`judge`, naming the problem, if the function raises or returns a number
            that is not finite.
        TypeError: from :meth:`judge`, naming the problem, if it returns something else.
    """

    function: Callable[[State], Any]
    extraction: Extraction | None = None
    comparison: Comparison | None = None
    scores_partial: bool = False
    errors: Literal["raise", "abstain"] = field(
        default="raise", validator=validators.in_(("raise", "abstain"))
    )
    _failures: int = field(default=0, init=False, repr=False)

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [self._verdict(state) for state in states]

    def _verdict(self, state: State) -> Verdict:
        try:
            if self.scores_partial or _is_complete(state):
                verdict = _as_verdict(self.function(state))
            else:
                verdict = Verdict(None, reason=_PARTIAL)
            if verdict.answer is None and self.extraction is not None and state.steps:
                return evolve(verdict, answer=self.extraction(state.steps[-1].text))
        except Exception as error:
            return self._failed(state, error)
        return verdict

    def _failed(self, state: State, error: Exception) -> Verdict:
        what = f"problem {state.problem.id!r}: scoring or extraction failed: {error!r}"
        if self.errors == "raise":
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{what}; errors='abstain' abstains instead") from error
        self._failures += 1
        # Only at 1, 10, 100 and so on: what fails once fails often.
        if str(self._failures).strip("0") == "1":
            _log.warning("abstained on %d solutions so far; the last: %.500s", self._failures, what)
        return Verdict(None, reason=f"scoring or extraction failed: {error!r:.200}")

    def equivalent(self, a: str, b: str) -> bool | None:
        if self.comparison is None:
            return super().equivalent(a, b)
        return self.comparison(a, b)


def _is_complete(state: State) -> bool:
    return bool(state.steps) and state.steps[-1].terminal and not state.steps[-1].truncated


def _as_verdict(value: Any) -> Verdict:
    if isinstance(value, Verdict):
        return value
    if value is None:
        return Verdict(None, reason="the scoring function abstained")
    # A truth value of numpy is not a number to Python.
    if isinstance(value, numbers.Real) or type(value).__name__ in ("bool_", "bool"):
        return Verdict(float(value))
    raise TypeError(
        f"it returned {value!r:.60}, a {type(value).__name__}; return a number, True or False, a "
        "Verdict, or None to abstain"
    )
