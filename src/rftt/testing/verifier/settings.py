"""Promises on what is saved of a verifier: copies by pickle, and its fingerprint."""

from __future__ import annotations

import json

from rftt.fingerprint import difference, fingerprint
from rftt.interfaces import Verifier
from rftt.testing.verifier.bench import Bench, copied
from rftt.testing.verifier.promises import FingerprintBroken, PickleBroken


def check_pickle(bench: Bench) -> None:
    """Check that a verifier is copied by pickle before and after it has judged, and copies judge as it
    does."""
    verifier = bench.original()
    unused = copied(verifier)
    # Where a verifier was given and not built, all that was expected so far is of copies.
    bench.try_all(verifier, PickleBroken, "by the original, not a copy")
    for how, copy in {"a copy before any call": unused, "a copy after a call": copied(verifier)}.items():
        bench.try_all(copy, PickleBroken, f"by {how}")


def check_fingerprint(bench: Bench) -> None:
    """Check that a fingerprint exists, is JSON, and stays the same."""
    verifier = bench.fresh()
    first = _fingerprint(verifier)
    bench.judge(verifier, bench.states, FingerprintBroken)
    for answer in bench.answers[:3]:
        verifier.equivalent(answer, bench.answers[0])
    others = {"after it has judged": verifier, "of another with equal settings": bench.fresh()}
    for how, other in others.items():
        if what := difference(first, _fingerprint(other)):
            raise FingerprintBroken(f"{how}, it is another: {what}")


def _fingerprint(verifier: Verifier) -> object:
    try:
        found = fingerprint(verifier)
        return json.loads(json.dumps(found, allow_nan=False))
    except Exception as error:
        raise FingerprintBroken(f"there is none: {error}") from error
