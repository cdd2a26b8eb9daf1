"""Promises on what steps hold: ids, text, log-probabilities, and the context that they make."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rftt.interfaces import GenerationRequest, State, Step
from rftt.testing.policy.bench import Bench, Untried, asked, said
from rftt.testing.policy.cases import body, forbidden_in_body
from rftt.testing.policy.promises import (
    ContextBroken,
    ControlIdsBroken,
    LogProbsBroken,
    TextBroken,
)

_PREFIXES = 8
"""Control ids that are tried as prefixes."""


def check_log_prob_values(bench: Bench) -> None:
    """Check that log-probabilities are numbers that can be ones."""
    for request, step in every_step(bench):
        for log_prob in step.log_probs:
            if not math.isfinite(log_prob) or log_prob > bench.tolerance:
                raise LogProbsBroken(f"a log-probability is {log_prob}: {said([step])}", asked(request))


def check_text(bench: Bench) -> None:
    """Check that texts are decided by the ids, and are what the tokenizer makes of them."""
    tokenizer = getattr(bench.policy, "tokenizer", None)
    texts: dict[tuple[str, tuple[int, ...], bool], str] = {}
    for request, step in every_step(bench):
        before = texts.setdefault((step.function, step.ids, step.truncated), step.text)
        if before != step.text:
            raise TextBroken(
                f"steps of the same ids have the texts {before!r:.60} and {step.text!r:.60}",
                asked(request),
            )
        if tokenizer is not None and step.text.strip() not in (decoded := _decoded(tokenizer, step)):
            raise TextBroken(
                f"the text is {step.text!r:.90}, and the ids of the body say {decoded[0]!r:.90}",
                asked(request),
            )


def check_control_ids(bench: Bench) -> None:
    """Check that bodies hold none: what was sampled, what the automaton allows, and what is forced.

    Raises:
        ControlIdsBroken: if one does.
        Untried: if the policy has neither automaton nor tokenizer, or none of its ids is one.
    """
    if not (control := forbidden_in_body(bench)):
        raise Untried("the policy has neither an automaton nor a tokenizer to say which ids control it")
    for request, step in every_step(bench):
        ids = body(step) if step.truncated else body(step)[:-1]
        if forged := control.intersection(ids):
            raise ControlIdsBroken(
                f"a body holds the control id {_named(bench, min(forged))}: {said([step])}",
                asked(request),
            )
    _check_masks(bench, control)
    _check_prefixes(bench, control)


def check_context(bench: Bench) -> None:
    """Check that contexts hold steps as they were sampled.

    Raises:
        ContextBroken: if one does not.
        Untried: if the policy has no contexts.
    """
    context = getattr(bench.policy, "context", None)
    if context is None:
        raise Untried("the policy has no method context")
    for request, steps in zip(bench.requests, bench.completions, strict=True):
        state = request.state
        for step in steps:
            before, state = state, State(state.problem, (*state.steps, step))
            if context_before(bench.policy, before, step) is None:
                raise ContextBroken(
                    f"after a step of the ids {list(step.ids)[-12:]}, the context ends with the ids "
                    f"{list(context(state))[-12:]}",
                    asked(request),
                )
            if tuple(context(state)) != tuple(context(state)):
                raise ContextBroken("the context of a state is another the second time", asked(state))


def context_before(policy: Any, state: State, step: Step) -> tuple[int, ...] | None:
    """Return the ids that a step's own ids came after, which may be more than those of its state: a
    prompt, for one. ``None`` if the context of what it leads to does not hold its ids."""
    whole = tuple(policy.context(State(state.problem, (*state.steps, step))))
    start = len(whole) - len(step.ids)
    if whole[start:] == step.ids:
        return whole[:start]
    automaton = getattr(policy, "automaton", None)
    if automaton is None or automaton.within or step.truncated:
        return None
    # Perhaps a new line in place of an end of text, after which a model would say no more.
    said = step.ids[:-1]
    first = len(tuple(policy.context(state)))
    starts = range(len(whole) - len(said), first - 1, -1)
    return next((whole[:n] for n in starts if whole[n : n + len(said)] == said), None)


def every_step(bench: Bench) -> Iterator[tuple[GenerationRequest, Step]]:
    """Yield each step that was sampled, with its request."""
    for request, steps in zip(bench.requests, bench.completions, strict=True):
        for step in steps:
            yield request, step


def _decoded(tokenizer: Any, step: Step) -> list[str]:
    """Return the texts that a body may have: with the id that ended it or without, with special ids or
    without."""
    bodies = [body(step)] if step.truncated else [body(step)[:-1], body(step)]
    return [
        str(tokenizer.decode(list(ids), skip_special_tokens=skip)).strip()
        for ids in bodies
        for skip in (False, True)
    ]


def _check_masks(bench: Bench, control: frozenset[int]) -> None:
    """Check that where an automaton allows a body, it allows control ids only to end it."""
    automaton: Any = getattr(bench.policy, "automaton", None)
    if automaton is None:
        return
    import torch

    within = automaton.within or {"a step": automaton.between[None]}
    for name, state in within.items():
        allowed = automaton.mask(torch.tensor([state]))[0].nonzero()[:, 0]
        ends = automaton.closes(allowed)
        for number, is_end in zip(allowed.tolist(), ends.tolist(), strict=True):
            if number in control and not is_end:
                raise ControlIdsBroken(
                    f"the automaton allows the control id {_named(bench, number)} in the body of {name}"
                )


def _check_prefixes(bench: Bench, control: frozenset[int]) -> None:
    state = bench.states[0]
    (prior,) = bench.prior([state], ControlIdsBroken)
    if not prior:
        return
    function = next(iter(prior))
    for number in bench.random.sample(sorted(control), min(_PREFIXES, len(control))):
        request = GenerationRequest(
            state, bench.seed(), function=function, prefix=(number,), until="step", max_tokens=2
        )
        try:
            bench.policy.extend([request])
        except ValueError:
            continue
        except Exception as error:
            what = f"the control id {_named(bench, number)} as a prefix raised {error!r}, no ValueError"
            raise ControlIdsBroken(what, asked(request)) from error
        raise ControlIdsBroken(
            f"the control id {_named(bench, number)} is taken as a prefix; raise a ValueError",
            asked(request),
        )


def _named(bench: Bench, number: int) -> str:
    tokenizer = getattr(bench.policy, "tokenizer", None)
    return f"{number}" if tokenizer is None else f"{number}, {tokenizer.decode([number])!r}"
