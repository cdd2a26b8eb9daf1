"""Promises on what a completion depends on: its own request alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from rftt.interfaces import GenerationRequest, State, Step
from rftt.testing.policy.bench import Bench, Comparison, asked, ids_of
from rftt.testing.policy.promises import (
    CompanyBroken,
    MemoryBroken,
    OrderBroken,
    RepetitionBroken,
    StreamBroken,
)
from rftt.testing.promises import ContractViolation

_ALONE = 12
"""Requests that are asked alone, each in a call of its own."""


def check_repetition(bench: Bench) -> None:
    """Check that the same call has the same completions again."""
    again = bench.extend(bench.requests, RepetitionBroken)
    _compare(bench, RepetitionBroken, bench.requests, again, bench.completions, "asked again")


def check_order(bench: Bench) -> None:
    """Check that completions are in the order of the requests."""
    requests = [
        GenerationRequest(State(problem), bench.seed(), max_tokens=1 + number % 8)
        for problem in bench.problems
        for number in range(_ALONE // 2)
    ]
    requests = bench.random.sample(requests, len(requests))
    mine = [ids_of(steps) for steps in bench.extend(requests, OrderBroken)]
    theirs = [ids_of(bench.extend([request], OrderBroken)[0]) for request in requests]
    if mine != theirs and sorted(mine) == sorted(theirs):
        wrong = next(n for n, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
        raise OrderBroken(
            f"{len(requests)} requests in one call have the completions that they have alone, in "
            "another order",
            asked(requests[wrong]),
        )


def check_company(bench: Bench) -> None:
    """Check that completions and priors are the same alone and among others, in any order."""
    numbers = range(len(bench.requests))
    some = sorted(bench.random.sample(numbers, min(_ALONE, len(numbers))))
    calls: list[tuple[str, Sequence[int]]] = [("alone", [number]) for number in some]
    calls += [("in reverse order", numbers[::-1]), ("twice in a call", [*some, *some[::-1]])]
    comparison = Comparison(bench, CompanyBroken)
    for how, order in calls:
        requests = [bench.requests[n] for n in order]
        found = bench.extend(requests, CompanyBroken)
        comparison.add(requests, found, [bench.completions[n] for n in order], how)
    comparison.close()
    together = bench.prior(bench.states, CompanyBroken)
    for state, prior in zip(bench.states, together, strict=True):
        (alone,) = bench.prior([state], CompanyBroken)
        if not _near(prior, alone, bench.tolerance):
            raise CompanyBroken(
                f"alone, a prior is {dict(alone)}, and among others it was {dict(prior)}", asked(state)
            )


def check_memory(bench: Bench) -> None:
    """Check that completions are the same where policies are asked one by one in two orders."""
    with_twin = [n for n, request in enumerate(bench.requests) if not request.state.steps]
    numbers = with_twin[:: max(1, len(with_twin) // _ALONE)]
    # Problems of one id and with another question, with the same seed and limits.
    seed = bench.seed()
    requests = [bench.requests[n] for n in numbers] + [
        GenerationRequest(state, seed, max_tokens=min(8, bench.max_tokens))
        for state in bench.states[: len(bench.problems)]
    ]
    found: list[list[list[Step]]] = []
    for order in (requests, requests[::-1]):
        policy = bench.fresh()
        found.append([bench.extend([request], MemoryBroken, policy)[0] for request in order])
    how = "asked one by one in another order"
    _compare(bench, MemoryBroken, requests, found[1][::-1], found[0], how)


def check_streams(bench: Bench) -> None:
    """Check that a stream gives what one call gives, also to requests that join later."""
    order = bench.random.sample(range(len(bench.requests)), len(bench.requests))
    try:
        found = _streamed(bench, order)
    except ContractViolation:
        raise
    except Exception as error:
        raise StreamBroken(f"a stream raised {error!r}") from error
    requests = [bench.requests[n] for n in order]
    expected = [bench.completions[n] for n in order]
    _compare(bench, StreamBroken, requests, [found[n] for n in order], expected, "in a stream")


def _streamed(bench: Bench, order: Sequence[int]) -> dict[int, list[Step]]:
    """Return the completions of a stream by their keys, which are numbers of requests.

    Requests come in three lots. Between them some are collected, and a prior is asked for, as a search
    does.
    """
    stream = bench.policy.stream()
    if list(stream.collect()):
        raise StreamBroken("collect returned something before any request was added")
    found: dict[int, list[Step]] = {}
    third = -(-len(order) // 3)
    waiting = [order[start : start + third] for start in range(0, len(order), third)]
    in_flight: set[int] = set()
    while waiting or in_flight:
        if waiting:
            for number in waiting.pop(0):
                stream.add(number, bench.requests[number])
                in_flight.add(number)
            with suppress(NotImplementedError):
                bench.policy.prior(bench.states[:2])
        finished = list(stream.collect())
        if not finished:
            raise StreamBroken(f"collect returned nothing with {len(in_flight)} requests in flight")
        for key, steps in finished:
            if key not in in_flight:
                raise StreamBroken(f"collect returned the key {key}, which is not in flight")
            in_flight.remove(key)
            found[key] = list(steps)
    if list(stream.collect()):
        raise StreamBroken("collect returned something after all requests were finished")
    return found


def _compare(
    bench: Bench,
    broken: type[ContractViolation],
    requests: Sequence[GenerationRequest],
    found: Sequence[Sequence[Step]],
    expected: Sequence[Sequence[Step]],
    how: str,
) -> None:
    comparison = Comparison(bench, broken)
    comparison.add(requests, found, expected, how)
    comparison.close()


def _near(a: Mapping[str, float], b: Mapping[str, float], tolerance: float) -> bool:
    return a.keys() == b.keys() and all(
        a[name] == b[name] or abs(a[name] - b[name]) <= tolerance for name in a
    )
