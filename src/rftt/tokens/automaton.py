"""A finite automaton over token ids: which ids may come next, and when a sample is over.

One table serves sampling (masks and stopping) and learning (the same masks again, so that a
log-probability means the same thing in both places).
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from attrs import frozen
from jaxtyping import Bool, Int64
from torch import Tensor

from rftt.tokens.functional import FunctionalTokens

END = 0
"""The state after which nothing more is sampled. It allows every id, so its rows are harmless."""


@frozen(eq=False)
class TokenAutomaton:
    """``allowed[s, i]``: id ``i`` may be sampled in state ``s``; ``following[s, i]``: where it leads."""

    allowed: Bool[Tensor, "states vocabulary"]
    following: Int64[Tensor, "states vocabulary"]
    between: dict[str | None, int]
    """The state after a step of this function (``None``: after the question) and before the next."""
    within: dict[str, int]
    """The state inside a step of this function."""


def with_stopping_copies(automaton: TokenAutomaton, ids: Collection[int]) -> TokenAutomaton:
    """The same automaton and, for each of its ``n`` states ``s``, a state ``n + s`` that differs in that
    any of ``ids`` ends the sample."""
    states = len(automaton.allowed)
    stopping = torch.where(automaton.following == END, END, automaton.following + states)
    stopping[:, list(ids)] = END
    return TokenAutomaton(
        automaton.allowed.repeat(2, 1),
        torch.cat([automaton.following, stopping]),
        automaton.between,
        automaton.within,
    )


def stop_automaton(stop_ids: Collection[int], vocabulary: int, size: int) -> TokenAutomaton:
    """Two states: any real id may be sampled, and each of ``stop_ids`` ends the sample.

    Args:
        stop_ids: ids that end a sample.
        vocabulary: number of ids the tokenizer knows; rows of the model beyond it are never sampled.
        size: number of rows in the model's output.
    """
    allowed = torch.ones(2, size, dtype=torch.bool)
    allowed[1, vocabulary:] = False
    following = torch.ones(2, size, dtype=torch.int64)
    following[END] = END
    following[1, list(stop_ids)] = END
    return TokenAutomaton(allowed, following, between={None: 1}, within={})


def grammar_automaton(
    tokens: FunctionalTokens, *, vocabulary: int, size: int, banned: Collection[int] = ()
) -> TokenAutomaton:
    """The grammar as an automaton: openers only where they are legal, closers only of the open step.

    Args:
        tokens: the functional tokens.
        vocabulary: number of ids the tokenizer knows; rows of the model beyond it are never sampled.
        size: number of rows in the model's output.
        banned: further ids that are never sampled, such as padding or an end-of-text token: a
            solution ends by its terminal step.
    """
    names = list(tokens.grammar.functions)
    between: dict[str | None, int] = {None: 1}
    within: dict[str, int] = {}
    for place, name in enumerate(names):
        within[name] = 2 + 2 * place
        between[name] = END if tokens.grammar.is_terminal(name) else 3 + 2 * place
    states = 2 + 2 * len(names)
    allowed = torch.zeros(states, size, dtype=torch.bool)
    following = torch.zeros(states, size, dtype=torch.int64)
    allowed[END] = True
    ordinary = torch.zeros(size, dtype=torch.bool)
    ordinary[:vocabulary] = True
    ordinary[[*tokens.ids, *banned]] = False
    for last, state in between.items():
        if state != END:
            for follower in tokens.grammar.legal(last):
                allowed[state, tokens.openers[follower]] = True
                following[state, tokens.openers[follower]] = within[follower]
    for name, state in within.items():
        allowed[state] = ordinary
        allowed[state, tokens.closers[name]] = True
        following[state] = state
        following[state, tokens.closers[name]] = between[name]
    return TokenAutomaton(allowed, following, between, within)
