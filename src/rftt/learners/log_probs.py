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
) -> Float[Tensor, "batch tokens"]:
    """Return the log-probability of each action given the ids before it; 0 elsewhere.

    Args:
        model: what is asked.
        experience: the sequences and their actions, on the model's device.
        automaton: gives the ids that it forbids probability 0, as in sampling; ``None`` normalises over
            the model's full vocabulary.
        temperature: divides the logits, as in sampling.
    """
    output = model(
        input_ids=experience.ids,
        attention_mask=experience.attention_mask.long(),
        position_ids=(experience.attention_mask.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
    )
    # The logits at place t are of the id at place t + 1.
    actions = experience.action_mask[:, 1:]
    logits: Float[Tensor, "actions vocab"] = output.logits[:, :-1][actions].float() / temperature
    ids = experience.ids[:, 1:][actions]
    if automaton is not None:
        allowed = automaton.to(logits.device).mask(experience.states[:, 1:][actions])
        logits = logits.masked_fill(~allowed, -torch.inf)
    log_probs = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
    result: Tensor = log_probs.new_zeros(experience.ids.shape)
    result[:, 1:][actions] = log_probs
    return result


def automaton_states(
    ids: Int64[Tensor, "batch tokens"],
    attention_mask: Bool[Tensor, "batch tokens"],
    starts: Int64[Tensor, " batch"],
    automaton: TokenAutomaton,
) -> Int64[Tensor, "batch tokens"]:
    """Return the automaton's state in which each id was drawn; its end state where it did not run.

    Args:
        ids: token ids.
        attention_mask: which places hold a token.
        starts: for each sequence, the place of the first id after the question, where it begins to run.
        automaton: what is run.
    """
    automaton = automaton.to(ids.device)
    state = torch.full_like(starts, automaton.between[None])
    states = torch.full_like(ids, END)
    for t in range(ids.shape[1]):
        running = (starts <= t) & attention_mask[:, t]
        states[:, t] = torch.where(running, state, END)
        state = torch.where(running, automaton.next_states(state, ids[:, t]), state)
    return states
