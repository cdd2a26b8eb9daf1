"""Promises on single completions: the grammar, the limits, what is forced, and where it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import evolve

from rftt.interfaces import GenerationRequest, Step
from rftt.testing.policy.bench import Bench, Untried, asked, drawn, said
from rftt.testing.policy.promises import (
    ActionMaskBroken,
    EndsBroken,
    ForcingBroken,
    GrammarBroken,
    LimitsBroken,
)


def check_functions(bench: Bench) -> None:
    """Check that every function may follow the one before it."""
    grammar = bench.policy.grammar
    for request, steps in _all(bench):
        last = request.state.last
        for step in steps:
            if step.function not in grammar.functions:
                raise GrammarBroken(f"{step.function!r} is not in the grammar", asked(request))
            if step.function not in grammar.legal(last):
                may = ", ".join(grammar.legal(last)) or "nothing"
                raise GrammarBroken(
                    f"{step.function!r} follows {last or 'the question'!r}; {may} may", asked(request)
                )
            last = step.function


def check_limits(bench: Bench) -> None:
    """Check the numbers of steps and of drawn ids."""
    for request, steps in _all(bench):
        most = 1 if request.until == "step" else request.max_steps
        if len(steps) > most:
            raise LimitsBroken(
                f"there are {len(steps)} steps, where at most {most} may be", asked(request)
            )
        if drawn(steps) > request.max_tokens:
            raise LimitsBroken(
                f"{drawn(steps)} ids are drawn, where at most {request.max_tokens} may be",
                asked(request),
            )


def check_forcing(bench: Bench) -> None:
    """Check that the first step is what the request forced."""
    for request, (first, *_) in _all(bench):
        if request.function not in (None, first.function):
            raise ForcingBroken(f"the first step is {first.function!r}", asked(request))
        start = first.ids[first.body_start :][: len(request.prefix)]
        if start != request.prefix:
            raise ForcingBroken(f"the first body begins with the ids {list(start)}", asked(request))


def check_action_mask(bench: Bench) -> None:
    """Check which ids are marked as drawn."""
    for request, steps in _all(bench):
        first = steps[0]
        forced = first.body_start + len(request.prefix) if request.function is not None else 0
        if any(first.action_mask[:forced]):
            raise ActionMaskBroken(
                f"the request forces {forced} ids of {first.function!r}, and the mask marks some as "
                f"drawn: {list(first.action_mask[:forced])}",
                asked(request),
            )
        for step in steps if request.function is None else steps[1:]:
            if not all(step.action_mask[: step.body_start]):
                raise ActionMaskBroken(
                    f"the policy chose {step.function!r}, and its opener is not marked as drawn; a "
                    "learner would learn nothing of the choice",
                    asked(request),
                )
        if request.function is None and not drawn(steps):
            raise ActionMaskBroken("no id of a completion is marked as drawn", asked(request))


def check_ends(bench: Bench) -> None:
    """Check where completions end, and what the flags of their steps say of it."""
    for request, steps in _all(bench):
        if what := _wrong_end(bench, request, steps):
            raise EndsBroken(f"{what}: {said(steps)}", asked(request))
    _check_cuts(bench)


def _wrong_end(bench: Bench, request: GenerationRequest, steps: Sequence[Step]) -> str | None:
    for number, step in enumerate(steps):
        whole = not step.truncated
        if step.terminal and number + 1 < len(steps):
            return f"step {number} is terminal, and another follows"
        if step.truncated and not step.terminal:
            return f"step {number} is truncated and not terminal; nothing may follow it"
        if step.truncated and drawn(steps) < request.max_tokens:
            return f"the last step is truncated after {drawn(steps)} of {request.max_tokens} ids"
        if whole and not step.terminal and bench.policy.grammar.is_terminal(step.function):
            return f"{step.function!r} ends solutions by the grammar, and step {number} is not terminal"
    is_over = (
        steps[-1].terminal
        or request.until == "step"
        or len(steps) >= request.max_steps
        or drawn(steps) >= request.max_tokens
    )
    if not is_over:
        return "a solution stops where it is not over, with steps and ids to spare"
    return None


def _check_cuts(bench: Bench) -> None:
    """Check completions against the same ones under lower limits, which cut some of their steps.

    Raises:
        EndsBroken: if a step says that it is whole and is not, or the other way round.
        Untried: if completions under lower limits are always others.
    """
    pairs = [
        (evolve(request, max_tokens=most), steps)
        for request, steps in _all(bench)
        if request.max_tokens == bench.max_tokens and not request.prefix
        for most in {1, drawn(steps) // 2, drawn(steps) - 1, *_step_ends(steps)}
        if 0 < most < drawn(steps)
    ]
    shorter = bench.extend([request for request, _ in pairs], EndsBroken)
    compared = 0
    for (request, steps), cut in zip(pairs, shorter, strict=True):
        for step, other in zip(cut, steps, strict=False):
            if step.function != other.function or step.ids != other.ids[: len(step.ids)]:
                break
            compared += 1
            expected = other.truncated or len(step.ids) < len(other.ids)
            if step.truncated != expected:
                raise EndsBroken(
                    f"with more ids to draw, a step is {said([other])}; so this one is "
                    f"{'cut' if expected else 'whole'}, and truncated={step.truncated}: {said([step])}",
                    asked(request),
                )
    if pairs and not compared:
        raise Untried("completions under a lower limit do not begin as those under a higher one do")


def _step_ends(steps: Sequence[Step]) -> list[int]:
    """Return how many ids are drawn up to the end of each step."""
    return [drawn(steps[: number + 1]) for number in range(len(steps))]


def _all(bench: Bench) -> Iterator[tuple[GenerationRequest, list[Step]]]:
    """Yield requests and their completions."""
    return zip(bench.requests, bench.completions, strict=True)
