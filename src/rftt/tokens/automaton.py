"""Finite automaton over token ids: which ids may come next, and where a sample ends.

Sampling and learning use the same automaton, so that a log-probability means the same in both. Ids are
of two kinds. *Special ids* (openers and closers, or stops) are few; each has a column in small tables of
allowed ids and next states. *Body ids* are all others; a state allows all of them or none, and all lead
to the same state. So memory grows with states x special ids, not with states x vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import torch
from attrs import evolve, field, frozen
from jaxtyping import Bool, Int64
from torch import Tensor

from rftt.tokens.functional import FunctionalTokens

END = 0
"""State after which nothing is sampled. It allows every id but the banned ones, so that no row of a mask
is empty, and leads to itself."""

_TABLES: Final = (
    "body_ids", "special_ids", "in_body", "allowed", "following", "closing", "body_following",
)  # fmt: skip


@frozen(eq=False)
class TokenAutomaton:
    """Deterministic automaton over the ids of a vocabulary.

    Attributes:
        body_ids: for each id, whether a body may hold it; false at special ids.
        special_ids: sorted ids that may change the state.
        in_body: for each state, whether body ids are allowed in it.
        allowed: for each state and special id, whether the id is allowed.
        following: for each state and special id, the next state.
        closing: for each special id, whether it ends a step.
        between: the state after a step of a function and before the next one; the key ``None`` stands
            for the question.
        within: the state inside a step of a function; empty if steps are not marked by ids.
        choices: the state in which an id stands for the function that comes next, by the function of the
            last step; empty where a function's opener is that id.
        body_following: for each state, the next state after a body id; ``None`` if body ids never change
            the state.
    """

    body_ids: Bool[Tensor, " size"]
    special_ids: Int64[Tensor, " special"]
    in_body: Bool[Tensor, " states"]
    allowed: Bool[Tensor, "states special"]
    following: Int64[Tensor, "states special"]
    closing: Bool[Tensor, " special"]
    between: dict[str | None, int]
    within: dict[str, int]
    choices: dict[str | None, int] = field(factory=dict)
    body_following: Int64[Tensor, " states"] | None = None

    @property
    def size(self) -> int:
        """Return the number of rows in the output of the models it is for."""
        return len(self.body_ids)

    @property
    def allows_everything(self) -> bool:
        """Return whether no state forbids an id, so that no mask is needed."""
        every_id = int(self.body_ids.sum()) + len(self.special_ids) == self.size
        return every_id and bool(self.in_body.all()) and bool(self.allowed.all())

    def to(self, device: torch.device) -> TokenAutomaton:
        """Return the automaton with its tables on a device."""
        moved: dict[str, Any] = {name: table.to(device) for name, table in self.tables().items()}
        return evolve(self, **moved)

    def tables(self) -> dict[str, Tensor]:
        """Return the tables by name, those that there are."""
        return {name: getattr(self, name) for name in _TABLES if getattr(self, name) is not None}

    def mask(self, states: Int64[Tensor, " rows"]) -> Bool[Tensor, "rows size"]:
        """Return, for each state, which ids are allowed. States are on the automaton's device."""
        mask = self.in_body[states, None] & self.body_ids
        mask[:, self.special_ids] = self.allowed[states]
        return mask

    def next_states(
        self, states: Int64[Tensor, " rows"], ids: Int64[Tensor, " rows"]
    ) -> Int64[Tensor, " rows"]:
        """Return the state that each id leads to."""
        if not len(self.special_ids):
            return states
        column, is_special = self._columns(ids)
        other = states if self.body_following is None else self.body_following[states]
        return torch.where(is_special, self.following[states, column], other)

    def closes(self, ids: Int64[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
        """Return, for each id, whether it ends a step."""
        if not len(self.special_ids):
            return torch.zeros_like(ids, dtype=torch.bool)
        column, is_special = self._columns(ids)
        return is_special & self.closing[column]

    def specials(self, state: int) -> list[int]:
        """Return the special ids that are allowed in a state."""
        ids: list[int] = self.special_ids[self.allowed[state]].tolist()
        return ids

    def _columns(
        self, ids: Int64[Tensor, " rows"]
    ) -> tuple[Int64[Tensor, " rows"], Bool[Tensor, " rows"]]:
        """Return the column of each id in the tables, and whether it has one."""
        column = torch.searchsorted(self.special_ids, ids.contiguous()).clamp(
            max=len(self.special_ids) - 1
        )
        return column, self.special_ids[column] == ids


def stop_automaton(
    stop_ids: Collection[int],
    tokenizer_size: int,
    vocab_size: int,
    *,
    blank_ids: Collection[int] = (),
    banned: Collection[int] = (),
    choices: Mapping[str | None, Collection[int]] | None = None,
) -> TokenAutomaton:
    """Build an automaton in which any id may be sampled, and each of ``stop_ids`` ends the sample.

    With ``blank_ids``, a stop that is blank is allowed only once another id than a blank one was drawn,
    so that no sample is empty. It then has a state more: 1 before that id, 2 after it.

    Args:
        stop_ids: ids that end a sample.
        tokenizer_size: number of ids the tokenizer knows; rows of the model beyond it are never sampled.
        vocab_size: number of rows in the model's output.
        blank_ids: ids of which a sample must not consist alone, such as white space and ends of text.
        banned: ids that are never sampled, such as those of other turns of a chat.
        choices: for each function, ids of which one is to be sampled alone after its step, to choose the
            next; the key ``None`` stands for the question.

    Raises:
        ValueError: if an id is both a stop and banned, or to be chosen and banned.
    """
    choices = {} if choices is None else choices
    chosen = {i for ids in choices.values() for i in ids}
    for name, own in (("a stop", set(stop_ids)), ("to be chosen", chosen)):
        if both := own.intersection(banned):
            raise ValueError(f"id {min(both)} is both {name} and banned")
    # A tokenizer may have ids that its model has no row for.
    stops = {i for i in stop_ids if i < vocab_size}
    blank = {i for i in blank_ids if i < vocab_size}.difference(banned)
    special_ids = torch.tensor(sorted(blank | stops | chosen), dtype=torch.int64)
    is_stop = torch.tensor([i in stops for i in special_ids.tolist()], dtype=torch.bool)
    is_blank = torch.tensor([i in blank for i in special_ids.tolist()], dtype=torch.bool)
    bodies = 3 if blank else 2
    states = bodies + len(choices)
    allowed = (special_ids < tokenizer_size).expand(states, -1).clone()
    stays = torch.arange(states)[:, None]
    following = torch.where(is_stop, END, stays).expand(states, -1).clone()
    body_following = None
    if blank:
        allowed[1] &= ~(is_stop & is_blank)
        following[1, ~is_blank & ~is_stop] = 2
        body_following = torch.tensor([END, 2, 2, *range(bodies, states)])
    in_body = torch.arange(states) < bodies
    for state, ids in enumerate(choices.values(), start=bodies):
        allowed[state] = torch.isin(special_ids, torch.tensor(sorted(ids)))
        following[state] = END
    return TokenAutomaton(
        body_ids=_body_ids(special_ids, banned, tokenizer_size, vocab_size),
        special_ids=special_ids,
        in_body=in_body,
        allowed=allowed,
        following=following,
        closing=is_stop,
        between={None: 1},
        within={},
        choices=dict(zip(choices, range(bodies, states), strict=True)),
        body_following=body_following,
    )


def grammar_automaton(
    tokens: FunctionalTokens, *, tokenizer_size: int, vocab_size: int, banned: Collection[int] = ()
) -> TokenAutomaton:
    """Build the grammar's automaton: openers only where they are legal, closers only of the open step.

    Args:
        tokens: the functional tokens.
        tokenizer_size: number of ids the tokenizer knows; rows of the model beyond it are never sampled.
        vocab_size: number of rows in the model's output.
        banned: further ids that are never sampled, such as padding or an end-of-text token: a
            solution ends by its terminal step.

    Raises:
        ValueError: if the model has no rows for the tokens.
    """
    if max(tokens.ids) >= vocab_size:
        raise ValueError(
            f"the model has {vocab_size} rows, and a functional token has the id {max(tokens.ids)}: "
            "call rftt.tokens.embeddings.initialize_token_embeddings(model, tokenizer, tokens) first"
        )
    between: dict[str | None, int] = {None: 1}
    within: dict[str, int] = {}
    for place, name in enumerate(tokens.grammar.functions):
        within[name] = 2 + 2 * place
        between[name] = END if tokens.grammar.is_terminal(name) else 3 + 2 * place
    special_ids = torch.tensor(sorted(tokens.ids), dtype=torch.int64)
    column = {token: place for place, token in enumerate(special_ids.tolist())}
    states = 2 + 2 * len(within)
    in_body = torch.zeros(states, dtype=torch.bool)
    in_body[[END, *within.values()]] = True
    allowed = torch.zeros(states, len(special_ids), dtype=torch.bool)
    allowed[END] = True
    # Special ids that are not allowed do not matter; an automaton that is at its end stays there.
    following = torch.full((states, len(special_ids)), END)

    def add_transition(state: int, token: int, target: int) -> None:
        allowed[state, column[token]] = True
        following[state, column[token]] = target

    for last, state in between.items():
        if state != END:
            for follower in tokens.grammar.legal(last):
                add_transition(state, tokens.openers[follower], within[follower])
    for name, state in within.items():
        add_transition(state, tokens.closers[name], between[name])
    return TokenAutomaton(
        body_ids=_body_ids(special_ids, banned, tokenizer_size, vocab_size),
        special_ids=special_ids,
        in_body=in_body,
        allowed=allowed,
        following=following,
        closing=torch.isin(special_ids, torch.tensor(list(tokens.closers.values()))),
        between=between,
        within=within,
    )


def _body_ids(
    special_ids: Int64[Tensor, " special"],
    banned: Collection[int],
    tokenizer_size: int,
    vocab_size: int,
) -> Bool[Tensor, " size"]:
    body_ids = torch.zeros(vocab_size, dtype=torch.bool)
    body_ids[:tokenizer_size] = True
    body_ids[special_ids] = False
    body_ids[[i for i in banned if i < vocab_size]] = False
    return body_ids
