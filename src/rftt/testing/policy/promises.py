"""The promises of a policy, each as the exception that says it is broken."""

from __future__ import annotations

from rftt.testing.promises import ContractViolation, wordings


class UnchangedBroken(ContractViolation):
    """Requests, states, their problems and the sequences that hold them are read, never written."""

    promise = "requests unchanged"


class RepliesBroken(ContractViolation):
    """There is one completion for each request, a list of at least one step, and one prior for each
    state, a mapping; none for none. No request within the grammar raises."""

    promise = "replies"


class GrammarBroken(ContractViolation):
    """Each step's function is one that the grammar lets follow the step before."""

    promise = "legal functions"


class LimitsBroken(ContractViolation):
    """A completion holds at most ``max_steps`` steps and ``max_tokens`` drawn ids, and one step where it
    is ``until="step"``."""

    promise = "limits"


class ForcingBroken(ContractViolation):
    """The first step is of the function that the request names, and its body begins with the request's
    prefix."""

    promise = "forcing"


class ActionMaskBroken(ContractViolation):
    """What the request forced, an opener or a prefix, is not marked as drawn. The opener of a function
    that the policy chose is."""

    promise = "action mask"


class EndsBroken(ContractViolation):
    """A step that a limit cut is truncated, and no other is. A truncated step, and a whole step of a
    function that ends solutions, is terminal; nothing follows a terminal step; and a completion stops
    only there or at a limit."""

    promise = "ends of steps"


class ControlIdsBroken(ContractViolation):
    """A body holds no control id: no opener or closer, nothing that the tokenizer calls special. Only
    the id that ends a step may be one. A prefix that holds one is refused with a ``ValueError``."""

    promise = "control ids"


class TextBroken(ContractViolation):
    """A step's text is decoded from the ids of its body."""

    promise = "text"


class ContextBroken(ContractViolation):
    """The context of a state ends with the ids of its last step as they were sampled, and is decided by
    the state alone. Where steps are not marked by ids, what ended one may be put in another way."""

    promise = "context"


class LogProbsBroken(ContractViolation):
    """Log-probabilities are finite and at most 0. The same id after the same ids always has the same
    one, and the probabilities of the ids that may come next add up to at most 1."""

    promise = "log-probs"


class FrequenciesBroken(ContractViolation):
    """Ids come as often as their log-probabilities say: these are of the distribution that was drawn
    from, after temperature and masks."""

    promise = "frequencies"


class ForwardBroken(ContractViolation):
    """Log-probabilities are those of a plain forward pass over the context, under the policy's masks and
    sampling parameters."""

    promise = "forward pass"


class PriorBroken(ContractViolation):
    """A prior has a log-probability for functions that may follow and no others. They add up to 1, and
    functions come as often as it says, at temperature 1 or at the policy's own."""

    promise = "prior"


class RepetitionBroken(ContractViolation):
    """The same request has the same completion each time: its seed decides every draw."""

    promise = "repeated requests"


class OrderBroken(ContractViolation):
    """Completions are in the order of the requests."""

    promise = "completion order"


class CompanyBroken(ContractViolation):
    """A completion does not depend on what shares the call: not on how many requests there are, on their
    order, or on the same one being there twice. Neither does a prior."""

    promise = "company of requests"


class MemoryBroken(ContractViolation):
    """A completion does not depend on what was asked before. What is remembered is remembered by all
    that decides it, never by the problem's id."""

    promise = "memory of requests"


class StreamBroken(ContractViolation):
    """A stream finishes each request once, under its own key, with the completion that ``extend`` gives,
    also where requests join while others run; ``collect`` returns nothing only where none is in
    flight."""

    promise = "streams"


class FingerprintBroken(ContractViolation):
    """A policy has a fingerprint: the same for equal settings, before and after it has sampled; so that
    a run that is resumed with another policy is refused."""

    promise = "policy fingerprint"


POLICY_PROMISES: dict[str, str] = wordings(__name__)
"""The wording of each promise, by name."""
