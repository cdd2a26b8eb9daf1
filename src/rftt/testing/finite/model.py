"""A finite policy that a learner can train: its table of probabilities as a torch module."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from attrs import evolve, field, frozen
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from rftt.interfaces import State
from rftt.samplers.sampling import SamplingParams
from rftt.testing.finite.tabular import Reply, TabularPolicy, paths
from rftt.tokens.automaton import TokenAutomaton
from rftt.tokens.grammar import Grammar

QUESTION: Final = 0
"""The id of every question, once or more often; no step has it."""
_EMPTY: Final = 0
_UNKNOWN: Final = 1
_FORBIDDEN: Final = -1e4
"""The logit of what has no probability. ``exp(-1e4)`` is exactly 0 in every float type, so such an id
moves nothing; and unlike minus infinity it leaves entropies finite."""


class FinitePolicy(TabularPolicy):
    """A tabular policy whose paths are ids: what a learner must know of a policy that sampled.

    Each step is one id, after :data:`QUESTION`.

    Args:
        grammar: as in :class:`~rftt.testing.finite.tabular.TabularPolicy`.
        table: likewise. Its probabilities are those of the draws, whatever the sampling parameters.
        sampling_params: what a learner is told.
    """

    def __init__(
        self,
        grammar: Grammar,
        table: Mapping[tuple[str, ...], Sequence[Reply]],
        sampling_params: SamplingParams | None = None,
    ) -> None:
        super().__init__(grammar, table)
        self._sampling_params = sampling_params or SamplingParams()

    @property
    def banned(self) -> tuple[int, ...]:
        """Ids that a model may like and the automaton forbids."""
        return ()

    @property
    def automaton(self) -> TokenAutomaton | None:
        """No mask: the model itself gives what may not follow no probability."""
        return None

    @property
    def sampling_params(self) -> SamplingParams:
        """Temperature and truncation of the draws."""
        return self._sampling_params

    def context(self, state: State) -> tuple[int, ...]:
        """Return the question's id and those of the steps."""
        return (QUESTION, *(token for step in state.steps for token in step.ids))


@frozen
class FiniteOutput:
    """What a model returns.

    Attributes:
        logits: of the id that follows each place.
        hidden_states: one layer, if asked for: at each place, 1 at the number of its prefix, else 0. A
            linear head on it is a table.
    """

    logits: Float[Tensor, "batch tokens vocab"]
    hidden_states: tuple[Float[Tensor, "batch tokens prefixes"], ...] | None = field(default=None)


class FiniteConfig(PretrainedConfig):
    """What every causal language model has.

    Attributes:
        vocab_size: the number of ids.
    """

    model_type = "rftt-finite"
    vocab_size: int = 0


class FiniteModel(PreTrainedModel):
    """A causal language model that is a table: one row of logits for each prefix of a finite policy.

    At first it gives each step the policy's probability. It sees what the attention mask shows it, in
    the order of the positions: the prefix of a place is the ids at the places that it sees. So padding,
    packing and masks matter as they do to a real model, while everything can be enumerated. Where the
    prefix is none of the policy's, all ids are equally likely, and nothing is learned. An id that the
    policy's automaton forbids has the logit 0 everywhere, because real models like such ids too.

    Args:
        policy: its table is the initial one.
        temperature: multiplies the initial logits, so that divided by it they give the probabilities.
        dropout: the share of logits that are dropped in train mode.

    Attributes:
        table: the logits; the only parameter.
        allowed: which ids may follow each prefix. Others have no probability and no gradient.
    """

    config_class = FiniteConfig
    # It takes the masks that torch's attention takes.
    _supports_sdpa = True
    allowed: Bool[Tensor, "prefixes vocab"]
    following: Int64[Tensor, "prefixes vocab"]
    others: Float[Tensor, " vocab"]

    def __init__(self, policy: TabularPolicy, temperature: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__(FiniteConfig(vocab_size=policy.vocabulary))
        self.dropout = dropout
        mass: dict[tuple[int, ...], dict[int, float]] = {}
        for ids, probability in paths(policy):
            whole = (QUESTION, *ids)
            for place, token in enumerate(whole):
                row = mass.setdefault(whole[:place], {})
                row[token] = row.get(token, 0.0) + probability
            mass.setdefault(whole, {})
        # The prefix before the question is the first; that of what is no prefix is put next to it.
        self.prefixes: list[tuple[int, ...] | None] = [(), None, *(p for p in mass if p)]
        number = {prefix: row for row, prefix in enumerate(self.prefixes)}
        shape = (len(self.prefixes), policy.vocabulary)
        table, allowed = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool)
        following = torch.full(shape, _UNKNOWN)
        # However long the question, the prefix is the same.
        following[number[(QUESTION,)], QUESTION] = number[(QUESTION,)]
        for prefix, row in mass.items():
            for token, probability in row.items():
                table[number[prefix], token] = probability / sum(row.values())
                allowed[number[prefix], token] = bool(prefix)
                following[number[prefix], token] = number[(*prefix, token)]
        logits = torch.where(allowed, table.log() * temperature, 0.0)
        self.table = nn.Parameter(logits.to(torch.get_default_dtype()))
        others = torch.full((policy.vocabulary,), _FORBIDDEN)
        others[list(getattr(policy, "banned", ()))] = 0.0
        self.register_buffer("allowed", allowed)
        self.register_buffer("others", others.to(self.table.dtype))
        self.register_buffer("following", following)

    def get_output_embeddings(self) -> None:
        """Return nothing: logits are looked up, not multiplied."""
        return

    def forward(
        self,
        input_ids: Int64[Tensor, "batch tokens"],
        attention_mask: Tensor | None = None,
        position_ids: Int64[Tensor, "batch tokens"] | None = None,
        use_cache: bool = False,
        output_hidden_states: bool = False,
    ) -> FiniteOutput:
        """Return the logits of what follows each place.

        Args:
            input_ids: the ids.
            attention_mask: which places are seen: of ``[batch, tokens]``, each place sees those before
                it and itself that hold 1; of ``[batch, 1, tokens, tokens]``, it sees where a bool is
                true or a float is 0. ``None`` is all before it.
            position_ids: the order; the prefix is known if they count up by 1 along it.
            use_cache: must be false.
            output_hidden_states: whether to return the features.
        """
        if use_cache:
            raise ValueError("use_cache: a finite model keeps no cache; call it with use_cache=False")
        if attention_mask is not None and not isinstance(attention_mask, Tensor):
            raise TypeError(
                f"attention_mask: a {type(attention_mask).__name__}; a finite model takes a tensor of "
                "2 or 4 dimensions"
            )
        rows = self._rows(input_ids, _visible(input_ids, attention_mask), position_ids)
        kept = nn.functional.dropout(self.table[rows], self.dropout, self.training)
        logits = torch.where(self.allowed[rows], kept, self.others)
        features = None
        if output_hidden_states:
            one_hot = nn.functional.one_hot(rows, len(self.prefixes))
            features = (one_hot.to(self.dtype),)
        return FiniteOutput(logits, features)

    def _rows(
        self,
        ids: Int64[Tensor, "batch tokens"],
        visible: Bool[Tensor, "batch tokens tokens"],
        positions: Int64[Tensor, "batch tokens"] | None,
    ) -> Int64[Tensor, "batch tokens"]:
        """Return the number of each place's prefix."""
        batch, width = ids.shape
        if positions is None:
            positions = torch.arange(width, device=ids.device).expand(batch, width)
        # What is not seen comes last.
        last = torch.iinfo(torch.int64).max
        order = torch.where(visible, positions[:, None, :], last).sort(2)
        lengths = visible.sum(2)
        rows = torch.full_like(ids, _EMPTY)
        for place in range(int(lengths.max()) if ids.numel() else 0):
            token = ids.gather(1, order.indices[:, :, place])
            following = self.following[rows, token]
            if place:
                gap = order.values[:, :, place] - order.values[:, :, place - 1]
                following = torch.where(gap == 1, following, _UNKNOWN)
            rows = torch.where(place < lengths, following, rows)
        return rows


def _visible(
    ids: Int64[Tensor, "batch tokens"], mask: Tensor | None
) -> Bool[Tensor, "batch tokens tokens"]:
    batch, width = ids.shape
    if mask is not None and mask.dim() == 4:
        if mask.shape not in ((batch, 1, width, width), (1, 1, width, width)):
            raise ValueError(
                f"attention_mask: of shape {tuple(mask.shape)}; for ids of shape {tuple(ids.shape)} "
                f"give ({batch}, 1, {width}, {width})"
            )
        seen = mask >= 0 if mask.is_floating_point() else mask.bool()
        return seen[:, 0].expand(batch, width, width)
    causal = torch.ones(width, width, dtype=torch.bool, device=ids.device).tril()
    if mask is None:
        return causal.expand(batch, width, width)
    if mask.shape != ids.shape:
        raise ValueError(f"attention_mask: of shape {tuple(mask.shape)}; ids are {tuple(ids.shape)}")
    return causal & mask.bool()[:, None, :]


def trained_policy(policy: FinitePolicy, model: FiniteModel, temperature: float = 1.0) -> FinitePolicy:
    """Return the policy with the probabilities that the model gives now, to sample from.

    Args:
        policy: what the model was made from.
        model: what was trained.
        temperature: divides the logits.

    Raises:
        ValueError: if two replies after one path have the same text: then paths are not told apart by
            their texts.
    """
    row = {prefix: number for number, prefix in enumerate(model.prefixes)}
    with torch.no_grad():
        logits = (model.table.double() / temperature).masked_fill(~model.allowed, _FORBIDDEN)
        log_probs = logits.log_softmax(-1).cpu()
    table: dict[tuple[str, ...], list[Reply]] = {}

    def fill(path: tuple[str, ...], ids: tuple[int, ...]) -> None:
        replies = policy.replies(path)
        if len({reply.text for reply in replies}) < len(replies):
            raise ValueError(f"policy: two replies after {path} have the same text")
        if replies:
            table[path] = []
        for reply in replies:
            whole, log_prob = ids, 0.0
            for token in policy.ids(reply):
                log_prob += float(log_probs[row[whole], token])
                whole = (*whole, token)
            # A policy's table has no zeros.
            probability = max(math.exp(log_prob), sys.float_info.min)
            table[path].append(evolve(reply, probability=probability))
            fill((*path, reply.text), whole)

    fill((), (QUESTION,))
    return type(policy)(policy.grammar, table, policy.sampling_params)
