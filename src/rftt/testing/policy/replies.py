"""Promises on calls: what comes back, that nothing is written to, and the policy's fingerprint."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from rftt.fingerprint import difference, fingerprint
from rftt.interfaces import GenerationRequest, Policy, State
from rftt.testing.policy.bench import Bench, asked
from rftt.testing.policy.promises import FingerprintBroken, RepliesBroken, UnchangedBroken

_TOKENS = 8


def check_unchanged(bench: Bench) -> None:
    """Check that neither requests nor states nor their lists are written to."""
    states: list[State] = [State(problem) for problem in bench.problems]
    _unchanged("extend", bench.policy, _requests(bench, states))
    _unchanged("prior", bench.policy, states)


def check_replies(bench: Bench) -> None:
    """Check that there is one reply for each request and state, however many there are."""
    states = [State(problem) for problem in bench.problems]
    requests = _requests(bench, states)
    some: list[Sequence[GenerationRequest]] = [[], requests[:1], requests, requests * 2]
    for given in some:
        bench.extend(given, RepliesBroken)
        bench.prior([request.state for request in given], RepliesBroken)


def check_fingerprint(bench: Bench) -> None:
    """Check that a fingerprint exists, is JSON, and stays the same."""
    policy = bench.fresh()
    first = _fingerprint(policy)
    states = [State(problem) for problem in bench.problems]
    bench.extend(_requests(bench, states), FingerprintBroken, policy)
    bench.prior(states, FingerprintBroken, policy)
    others = {"after it has sampled": policy, "of another with equal settings": bench.fresh()}
    for how, other in others.items():
        if what := difference(first, _fingerprint(other)):
            raise FingerprintBroken(f"{how}, it is another: {what}")


def _requests(bench: Bench, states: Sequence[State]) -> list[GenerationRequest]:
    return [GenerationRequest(state, bench.seed(), max_tokens=_TOKENS) for state in states]


def _unchanged(method: str, policy: Policy, given: list[Any]) -> None:
    kept, before = list(given), copy.deepcopy(given)
    # What it raises is another promise's matter.
    with suppress(Exception):
        getattr(policy, method)(given)
    if len(given) != len(kept):
        raise UnchangedBroken(f"the list of {len(kept)} has {len(given)} after a call of {method}")
    for item, same, was in zip(given, kept, before, strict=True):
        if item is not same or item != was:
            raise UnchangedBroken(f"after a call of {method}, what was asked is another", asked(was))


def _fingerprint(policy: Policy) -> object:
    try:
        return json.loads(json.dumps(fingerprint(policy), allow_nan=False))
    except Exception as error:
        raise FingerprintBroken(f"there is none: {error}") from error
