"""The promise on log-probabilities that a model can be asked about: a plain forward pass gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rftt.interfaces import State, Step
from rftt.samplers.model_state import evaluating
from rftt.samplers.sampling import SamplingParams, probabilities
from rftt.testing.policy.bench import Bench, Logits, Untried, asked, said
from rftt.testing.policy.contents import context_before
from rftt.testing.policy.promises import ForwardBroken
from rftt.tokens.automaton import TokenAutomaton

_COMPLETIONS = 48
"""Completions that are held against forward passes, one pass for each step."""


def check_forward(bench: Bench) -> None:
    """Check log-probabilities against a plain forward pass, one sequence at a time, without a cache.

    Raises:
        ForwardBroken: if one differs by more than the tolerance.
        Untried: if there is no model at hand, or the policy does not say what it conditions on.
    """
    if getattr(bench.policy, "context", None) is None:
        raise Untried("the policy has no method context, so what its ids follow is not known")
    logits = bench.logits or _own_logits(bench)
    numbers = range(0, len(bench.requests), -(-len(bench.requests) // _COMPLETIONS))
    for number in numbers:
        request, state = bench.requests[number], bench.requests[number].state
        for step in bench.completions[number]:
            expected = _log_probs(bench.policy, logits, state, step)
            state = State(state.problem, (*state.steps, step))
            pairs = zip(step.log_probs, expected.tolist(), step.action_mask, strict=True)
            for place, (log_prob, plain, is_drawn) in enumerate(pairs):
                if is_drawn and not abs(log_prob - plain) <= bench.tolerance:
                    raise ForwardBroken(
                        f"the log-probability of id {step.ids[place]} at place {place} is "
                        f"{log_prob:.6g}, and by a forward pass {plain:.6g}: {said([step])}",
                        asked(request),
                    )


def _log_probs(policy: Any, logits: Logits, state: State, step: Step) -> Float[Tensor, " ids"]:
    """Return the log-probability of each of a step's ids."""
    if not (before := context_before(policy, state, step)):
        raise Untried("the context of a state does not hold its last step after other ids")
    rows = torch.as_tensor(logits(before + step.ids))[len(before) - 1 : -1].float().cpu()
    params = getattr(policy, "sampling_params", None) or SamplingParams()
    allowed = None
    if (automaton := getattr(policy, "automaton", None)) is not None:
        allowed = _allowed(automaton, state, step)
    chances = probabilities(rows, allowed, params)
    found: Float[Tensor, " ids"] = chances[torch.arange(len(step.ids)), torch.tensor(step.ids)].log()
    return found


def _allowed(automaton: TokenAutomaton, before: State, step: Step) -> Tensor:
    """Return the mask that each id was drawn under."""
    # Where steps are not marked by ids, each is a sample of its own.
    last = before.last if automaton.within else None
    state, masks = torch.tensor([automaton.between[last]]), []
    for token in step.ids:
        masks.append(automaton.mask(state)[0])
        state = automaton.next_states(state, torch.tensor([token]))
    return torch.stack(masks)


def _own_logits(bench: Bench) -> Callable[[tuple[int, ...]], Tensor]:
    """Return a forward pass of the model that the policy's sampler has."""
    model = getattr(getattr(bench.policy, "sampler", None), "model", None)
    if not isinstance(model, torch.nn.Module):
        raise Untried("the policy's sampler has no model at hand; give a forward pass with logits=")

    def logits(ids: tuple[int, ...]) -> Tensor:
        with torch.no_grad(), evaluating(model):
            device = next(model.parameters()).device
            found: Tensor = model(torch.tensor([ids], device=device), use_cache=False).logits[0]
        return found

    return logits
