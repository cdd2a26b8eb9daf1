"""One call that holds a policy to its promises."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Final

from attrs import field, frozen

from rftt.interfaces import Policy
from rftt.problems.problem import Problem
from rftt.testing.policy.bench import Bench, Build, Logits, Untried
from rftt.testing.policy.cases import PROBLEMS, gather, with_twin
from rftt.testing.policy.contents import check_context, check_control_ids, check_text
from rftt.testing.policy.draws import check_frequencies, check_log_probs, check_prior
from rftt.testing.policy.forward import check_forward
from rftt.testing.policy.independence import (
    check_company,
    check_memory,
    check_order,
    check_repetition,
    check_streams,
)
from rftt.testing.policy.promises import POLICY_PROMISES
from rftt.testing.policy.replies import check_fingerprint, check_replies, check_unchanged
from rftt.testing.policy.steps import (
    check_action_mask,
    check_ends,
    check_forcing,
    check_functions,
    check_limits,
)
from rftt.testing.promises import BrokenPromises, ContractViolation

_log = logging.getLogger(__name__)

_FIRST: Final[dict[str, Callable[[Bench], None]]] = {
    "requests unchanged": check_unchanged,
    "replies": check_replies,
    "completion order": check_order,
    "replies to all": gather,
}
"""Checks without which nothing else can be told."""

_CHECKS: Final[dict[str, Callable[[Bench], None]]] = {
    "repeated requests": check_repetition,
    "legal functions": check_functions,
    "forcing": check_forcing,
    "action mask": check_action_mask,
    "limits": check_limits,
    "ends of steps": check_ends,
    "control ids": check_control_ids,
    "text": check_text,
    "context": check_context,
    "log-probs": check_log_probs,
    "frequencies": check_frequencies,
    "forward pass": check_forward,
    "prior": check_prior,
    "company of requests": check_company,
    "memory of requests": check_memory,
    "streams": check_streams,
    "policy fingerprint": check_fingerprint,
}
"""Checks by promise, in order."""

_FOLLOWS: Final[dict[str, tuple[str, ...]]] = {
    "repeated requests": (
        "ends of steps", "company of requests", "memory of requests", "streams",
    ),
    "legal functions": ("ends of steps",),
    "forcing": ("action mask",),
    "action mask": ("limits", "ends of steps", "forward pass"),
    "control ids": ("forward pass",),
    "context": ("forward pass",),
    "log-probs": ("frequencies", "forward pass"),
    "frequencies": ("forward pass",),
    "company of requests": ("memory of requests", "streams"),
}  # fmt: skip
"""Promises that cannot be told apart from another once that is broken: they follow from it."""


@frozen
class PolicyReport:
    """What was tried on a policy that kept its promises.

    Attributes:
        completions: how many were asked for to be looked at one by one, draws for frequencies aside.
        deepest: the number of steps after which the deepest state was continued.
        draws: how many draws frequencies were taken from.
        compared: how many completions were compared with the same request's in another call.
        changed: how many of these had other ids, as the rounding of batched kernels may have it.
        largest_difference: of the log-probabilities of the same id in two calls.
        untried: promises that could not be tried, each with the reason.
    """

    completions: int
    deepest: int
    draws: int
    compared: int
    changed: int
    largest_difference: float
    untried: Mapping[str, str] = field(factory=dict)

    @property
    def changed_share(self) -> float:
        """The share of completions that another batch changed."""
        return self.changed / max(1, self.compared)


def check_policy(
    build: Build | Policy,
    *,
    problems: Sequence[Problem] | None = None,
    waived: Mapping[str, str] | None = None,
    logits: Logits | None = None,
    max_tokens: int = 48,
    draws: int = 1000,
    tolerance: float = 1e-4,
    max_changed_share: float = 0.01,
    seed: int = 0,
) -> PolicyReport:
    """Check a policy, and the sampler under it, against its promises.

    It is asked to continue questions and states that it reached itself, with functions that it chooses
    and that are forced, with prefixes, and with every limit; in one call, alone, in other orders, again,
    and in a stream that requests join. Many short draws of the same states are held against their
    log-probabilities and the prior by chi-squared; where a model is at hand, log-probabilities are held
    against plain forward passes. The promises and their wording are in
    :data:`~rftt.testing.policy.promises.POLICY_PROMISES`. Write one test for each policy::

        def test_my_policy() -> None:
            check_policy(my_policy)

    On a small model it takes some seconds. Of a large one, ``draws`` and ``max_tokens`` decide the time:
    four times ``draws`` samples of three ids, and some ten calls of about 100 requests.

    What could not be tried is in the report, and is logged as a warning.

    Args:
        build: makes the policy, always with equal settings and weights; or the policy. Only where it is
            a function can a policy be tried that was asked nothing before.
        problems: what it is asked; by default a few lines of arithmetic. For a finite policy, any.
        waived: promises that are not demanded, by name, each with the reason why it does not apply; for
            example ``{"log-probs": "the server gives none"}``.
        logits: a plain forward pass: of ids, a tensor ``[ids, vocabulary]`` of the logits that follow
            each. By default that of ``policy.sampler.model``, if there is one.
        max_tokens: most drawn ids of a completion. Where no step ends within so many, nothing is tried
            beyond the question.
        draws: draws of each state, and each kind, that frequencies are taken from.
        tolerance: the difference of two log-probabilities that counts as none: some 1e-4 for float32,
            some 0.1 for bfloat16.
        max_changed_share: the largest share of completions that may have other ids in another batch,
            through the rounding of batched kernels; it is demanded of each way to ask again. 0 suits a
            policy without a model.
        seed: decides seeds, orders and choices; the same seed tries the same.

    Returns:
        What was tried, and what share of completions another batch changed.

    Raises:
        ContractViolation: naming the promise that is broken, and what was found. If several are, it is a
            :class:`~rftt.testing.promises.BrokenPromises` that lists them.
        TypeError: if ``build`` does not make a policy.
        ValueError: if ``waived`` names a promise that does not exist, or there are no problems.
    """
    skipped = dict(waived or {})
    if unknown := skipped.keys() - POLICY_PROMISES.keys():
        known = ", ".join(POLICY_PROMISES)
        raise ValueError(f"waived: there is no promise {min(unknown)!r}; there are: {known}")
    if problems is not None and not problems:
        raise ValueError("problems: there are none; give at least one to continue, or leave them out")
    asked = with_twin(PROBLEMS if problems is None else problems)
    bench = Bench(build, asked, max_tokens, draws, tolerance, max_changed_share, logits, Random(seed))
    broken, untried = _run(bench, skipped)
    if not any(state.steps for state in bench.states):
        _log.warning(
            "nothing was tried beyond the question: no first step ended within max_tokens=%d", max_tokens
        )
    for promise, reason in untried.items():
        _log.warning("%s was not tried: %s", promise, reason)
    if len(broken) == 1 and not untried:
        # The way here says nothing; the cause does, where a policy raised something.
        raise broken[0].with_traceback(None) from broken[0].__cause__
    if broken:
        raise BrokenPromises(broken, untried) from broken[0].__cause__
    return PolicyReport(
        completions=len(bench.requests),
        deepest=max(len(state.steps) for state in bench.states),
        draws=sum(len(found) for *_, found in bench.sampled),
        compared=bench.compared,
        changed=bench.changed,
        largest_difference=bench.largest_difference,
        untried=untried,
    )


def _run(bench: Bench, skipped: Mapping[str, str]) -> tuple[list[ContractViolation], dict[str, str]]:
    """Return what is broken, and what could not be tried."""
    broken: list[ContractViolation] = []
    untried: dict[str, str] = {}
    for promise, check in (_FIRST | _CHECKS).items():
        if promise in skipped or promise in untried:
            continue
        try:
            check(bench)
        except Untried as reason:
            untried[promise] = str(reason)
        except ContractViolation as violation:
            broken.append(violation)
            ends_here = promise in _FIRST and promise != "requests unchanged"
            for other in _CHECKS if ends_here else _FOLLOWS.get(promise, ()):
                if other not in skipped:
                    untried.setdefault(other, f"{violation.promise} is broken, from which it follows")
            if ends_here:
                break
        except Exception:
            if not broken:
                raise
            # What is broken already may lead to anything.
            _log.warning("%s could not be tried to its end", promise, exc_info=True)
            untried[promise] = f"{broken[0].promise} is broken, and it raised an error"
    return broken, untried
