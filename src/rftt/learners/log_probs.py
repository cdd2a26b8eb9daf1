"""Log-probabilities of given tokens under a model, as the sampler would have drawn them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers import PreTrainedModel

from rftt.learners.experience import Experience
from rftt.learners.reference import Reference
from rftt.tokens.automaton import END, TokenAutomaton


def token_log_probs(
    model: PreTrainedModel | Reference,
    experience: Experience,
    automaton: TokenAutomaton | None,
    temperature: float = 1.0,
) -> Float[Tensor, "rows tokens"]:
    """The log-probability of each action given the ids before it; 0 elsewhere.

    With an automaton, ids that it forbids have probability 0, as in sampling; without, the model's
    whole vocabulary counts.
    """
    output = model(
        input_ids=experience.ids,
        attention_mask=experience.present.long(),
        position_ids=(experience.present.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
    )
    targets = experience.actions[:, 1:]
    logits = output.logits[:, :-1][targets].float() / temperature
    chosen = experience.ids[:, 1:][targets]
    if automaton is not None:
        allowed = automaton.allowed.to(logits.device)[experience.states[:, 1:][targets]]
        logits = logits.masked_fill(~allowed, -torch.inf)
    log_probs = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
    result: Tensor = log_probs.new_zeros(experience.ids.shape)
    result[:, 1:][targets] = log_probs
    return result


def automaton_states(
    ids: Int64[Tensor, "rows tokens"],
    present: Bool[Tensor, "rows tokens"],
    starts: Int64[Tensor, " rows"],
    automaton: TokenAutomaton,
) -> Int64[Tensor, "rows tokens"]:
    """The state in which each id was chosen, when the automaton starts at place ``starts`` of each
    row; 0 before that and at padding."""
    state = torch.full_like(starts, automaton.between[None])
    states = torch.full_like(ids, END)
    following = automaton.following.to(ids.device)
    for t in range(ids.shape[1]):
        running = (starts <= t) & present[:, t]
        states[:, t] = torch.where(running, state, END)
        state = torch.where(running, following[state, ids[:, t]], state)
    return states
