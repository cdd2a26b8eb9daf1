"""The promises of a learner, each as the exception that says it is broken."""

from __future__ import annotations

from rftt.testing.promises import ContractViolation, wordings


class LearnsBroken(ContractViolation):
    """From trees whose rollouts differ in score something is learned: loss, metrics and gradient are
    finite, and the gradient is not 0."""

    promise = "learns"


class RepeatBroken(ContractViolation):
    """Trees and batches are read, never written. The same trees give the same experience; the same model
    and batch give the same loss and gradient: no dropout, no chance. The model is left in the mode it
    was in."""

    promise = "repeatable"


class SequenceBroken(ContractViolation):
    """A sequence of the experience is a path of a tree as it was sampled: the question's ids, then those
    of its steps, each with the log-probability it was drawn with. So a tree of one path gives what a
    plain sequence gives. Only ids that the policy drew are actions."""

    promise = "plain sequence"


class PaddingBroken(ContractViolation):
    """Padding has no influence: neither how much there is of it, nor what it holds."""

    promise = "padding"


class MaskBroken(ContractViolation):
    """What the policy did not draw has no influence: the question, however long, openers that the
    searcher forced, results of tools. Log-probabilities, advantages and weights are exactly 0 there, and
    only the distributions that actions were drawn from get a gradient."""

    promise = "masked places"


class PackingBroken(ContractViolation):
    """Sequences that share a prefix have the loss and gradient that they would have if they did not: a
    token that several share counts in each of them."""

    promise = "packing"


class OrderBroken(ContractViolation):
    """The order of the trees, and that of the sequences of an experience, have no influence."""

    promise = "order"


class MicroBatchBroken(ContractViolation):
    """However an experience is split into micro-batches, their losses, metrics and gradients add up to
    its own: what a sum is divided by comes from the totals of the full batch."""

    promise = "micro-batches"


class ProcessesBroken(ContractViolation):
    """However trees are split over processes, losses and gradients of all of them add up to those of one
    process with all trees, also where one has more than another, or nothing to learn from."""

    promise = "processes"


class RatioBroken(ContractViolation):
    """As long as the model is the policy that sampled, the importance ratio is exactly 1: the old
    log-probabilities are those of the model, at the temperature and under the masks of the draws."""

    promise = "ratio"


class EqualRewardsBroken(ContractViolation):
    """Rollouts that all have the same reward move nothing: the gradient of the model is 0, and never
    NaN, whether all are right, all are wrong or there is but one."""

    promise = "equal rewards"


class NoFailureBroken(ContractViolation):
    """Ends that are truncated, judged midway, not judged or on which the verifier abstained are no
    failures, nor successes: without them, loss and gradient are the same."""

    promise = "not failures"


class NothingBroken(ContractViolation):
    """Trees with nothing to learn from give an experience without an action, and no exception."""

    promise = "nothing to learn"


class NonFiniteBroken(ContractViolation):
    """A score or a log-probability that is not finite is refused with the name of its problem, or left
    out; it never reaches a gradient."""

    promise = "non-finite"


class ResumeBroken(ContractViolation):
    """A learner that is made anew and given the state and the modules of another, through a file, goes
    on as that one would."""

    promise = "state"


class ModulesBroken(ContractViolation):
    """Modules that a learner owns are the same objects each time, have names, get finite gradients from
    the loss, and have a learning rate only where they exist."""

    promise = "modules"


class DirectionBroken(ContractViolation):
    """On a finite problem, the gradient points along the exact policy gradient, found by enumeration:
    over many trees, the cosine of the two is above 0.99. With the sign of the advantages flipped it
    points the other way. A learner that admits a bias waives this promise."""

    promise = "policy gradient"


LEARNER_PROMISES: dict[str, str] = wordings(__name__)
"""The wording of each promise, by name."""
