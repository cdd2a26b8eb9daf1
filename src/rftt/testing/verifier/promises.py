"""The promises of a verifier, each as the exception that says it is broken."""

from __future__ import annotations

from rftt.testing.promises import ContractViolation, wordings


class VerdictsBroken(ContractViolation):
    """There is one verdict for each state, in a list, and none for none. A score is a finite number or
    ``None``, an answer is a text or ``None``, and where steps are scored, each of them is."""

    promise = "verdicts"


class AnyStateBroken(ContractViolation):
    """Any state is judged, and none raises: one without steps, without a gold answer, unfinished or
    truncated. What cannot be scored is abstained from."""

    promise = "any state"


class RepetitionBroken(ContractViolation):
    """The same state has the same verdict each time: nothing is left to chance."""

    promise = "repetition"


class MemoryBroken(ContractViolation):
    """A verdict does not depend on what was judged before. What is remembered is remembered by all that
    decides it, never by the problem's id or by the place in the call."""

    promise = "memory"


class OrderBroken(ContractViolation):
    """Verdicts are in the order of the states."""

    promise = "verdict order"


class CompanyBroken(ContractViolation):
    """A verdict does not depend on what shares the call: not on how many states there are, on their
    order, or on the same state being there twice."""

    promise = "company"


class UnchangedBroken(ContractViolation):
    """States, their problems and the sequence that holds them are read, never written."""

    promise = "states unchanged"


class EquivalenceBroken(ContractViolation):
    """Two answers are equivalent, different or undecided, the same both ways and each time; an answer
    is never different from itself. No pair of texts raises."""

    promise = "equivalence"


class PickleBroken(ContractViolation):
    """A verifier can be pickled, used or not, and the copy judges as it does."""

    promise = "pickle"


class FingerprintBroken(ContractViolation):
    """A verifier has a fingerprint: the same for equal settings, before and after it has judged, in a
    copy too; so that a run that is resumed with another verifier is refused."""

    promise = "fingerprint"


class ThreadsBroken(ContractViolation):
    """Threads that share a verifier get the verdicts that they would get alone."""

    promise = "threads"


class ForksBroken(ContractViolation):
    """Forked processes get the verdicts that they would get alone, while their parent goes on judging,
    also if another thread was judging when the fork was made."""

    promise = "forks"


class InterruptBroken(ContractViolation):
    """After a call that a signal interrupted, as Ctrl-C does, verdicts are those of their own states."""

    promise = "interrupt"


class LimitBroken(ContractViolation):
    """A reply comes within the limit, whatever a model wrote, and no text raises: towers of powers,
    braces without end, control characters, surrogates, nothing at all."""

    promise = "time limit"


class AftermathBroken(ContractViolation):
    """A state has its verdict also beside and after answers that are hostile or take too long."""

    promise = "aftermath"


VERIFIER_PROMISES: dict[str, str] = wordings(__name__)
"""The wording of each promise, by name."""
