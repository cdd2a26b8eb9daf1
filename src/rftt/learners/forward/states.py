"""The automaton's states along given sequences."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from rftt.tokens.automaton import END, TokenAutomaton


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
