"""What a learner learns from: rows of tokens, with all that credit assignment found out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import torch
from attrs import frozen
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@frozen(eq=False)
class Experience:
    """Right-padded rows, each a question and the steps that followed it.

    Attributes:
        ids: token ids.
        present: real tokens; the rest is padding.
        actions: tokens to learn from. The log-probability at place ``t`` is that of id ``t`` given
            the ids before it; place 0 is never an action.
        states: the automaton's state in which each id was chosen; 0 where it has none, and there all
            ids are allowed.
        log_probs: natural log-probabilities under the policy that sampled; 0 where not an action.
        reference_log_probs: the same under the frozen reference.
        advantages: what each action was worth; 1 for supervised learning.
        action_count: actions in the whole batch, of which these rows may be a part.
    """

    ids: Int64[Tensor, "rows tokens"]
    present: Bool[Tensor, "rows tokens"]
    actions: Bool[Tensor, "rows tokens"]
    states: Int64[Tensor, "rows tokens"]
    log_probs: Float[Tensor, "rows tokens"]
    reference_log_probs: Float[Tensor, "rows tokens"]
    advantages: Float[Tensor, "rows tokens"]
    action_count: int

    def __len__(self) -> int:
        return self.ids.shape[0]

    def take(self, rows: Int64[Tensor, " chosen"]) -> Experience:
        """Some rows, without the columns in which all of them are padding."""
        width = int(self.present[rows].sum(1).max()) if len(rows) else 0
        return attrs.evolve(self, **{n: t[rows, :width] for n, t in self._tensors().items()})

    def parts(self, tokens: int) -> Iterator[Experience]:
        """Split into parts of rows of like length, each of about ``tokens`` places or less (one row
        at the least). Rows without an action are left out: they teach nothing."""
        lengths = self.present.sum(1)
        order = [i for i in lengths.argsort().tolist() if bool(self.actions[i].any())]
        part: list[int] = []
        for i in order:
            if part and (len(part) + 1) * int(lengths[i]) > tokens:
                yield self.take(torch.tensor(part))
                part = []
            part.append(i)
        if part:
            yield self.take(torch.tensor(part))

    def to(self, device: torch.device) -> Experience:
        """The same on a device."""
        return attrs.evolve(self, **{n: t.to(device) for n, t in self._tensors().items()})

    def _tensors(self) -> dict[str, Any]:
        return {
            f.name: value
            for f in attrs.fields(Experience)
            if isinstance(value := getattr(self, f.name), Tensor)
        }


@frozen
class Row:
    """One row before padding; the lists have one entry for each id."""

    ids: Sequence[int]
    actions: Sequence[bool]
    log_probs: Sequence[float] | None = None


def experience_from_rows(rows: Sequence[Row]) -> Experience:
    """Pad rows to one width; advantages are 1, states and reference log-probabilities 0.

    Raises ``ValueError`` if there are no rows or a row's first id is an action.
    """
    if not rows:
        raise ValueError("no rows: there is nothing to learn from")
    for number, row in enumerate(rows):
        if row.actions[0]:
            raise ValueError(f"row {number}: its first id is an action, but nothing stands before it")
    width = max(len(row.ids) for row in rows)
    shape = (len(rows), width)
    ids = torch.zeros(shape, dtype=torch.int64)
    present = torch.zeros(shape, dtype=torch.bool)
    actions = torch.zeros(shape, dtype=torch.bool)
    log_probs = torch.zeros(shape)
    for i, row in enumerate(rows):
        n = len(row.ids)
        ids[i, :n] = torch.tensor(row.ids)
        present[i, :n] = True
        actions[i, :n] = torch.tensor(row.actions)
        if row.log_probs is not None:
            log_probs[i, :n] = torch.tensor(row.log_probs)
    return Experience(
        ids=ids,
        present=present,
        actions=actions,
        states=torch.zeros_like(ids),
        log_probs=torch.where(actions, log_probs, 0.0),
        reference_log_probs=torch.zeros(shape),
        advantages=actions.float(),
        action_count=int(actions.sum()),
    )
