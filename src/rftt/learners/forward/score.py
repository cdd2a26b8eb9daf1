"""What a model says of the actions of an experience: log-probabilities, entropies, hidden states."""

from __future__ import annotations

from typing import Any, Literal

import torch
from attrs import frozen
from jaxtyping import Float, Int64
from torch import Tensor

from rftt.learners.experience import Experience
from rftt.learners.forward.attention import packing_obstacle, row_tokens, say_once, takes, tree_mask
from rftt.learners.forward.depth_first import depth_first_scores
from rftt.learners.forward.distribution import chosen_log_probs
from rftt.learners.forward.model_call import logits_at
from rftt.learners.forward.packing import PackedBatch, Targets, pack_prefixes
from rftt.tokens.automaton import TokenAutomaton

Packing = Literal["tree", "none", "depth_first"]
"""How a forward pass shares prefixes; see :func:`score_tokens`."""


@frozen(eq=False)
class TokenScores:
    """What a model says of an experience's actions. Everything is 0 where there is no action.

    Attributes:
        log_probs: natural log-probability of each action given the ids before it.
        entropy: in nats, of the distribution that each action was drawn from; ``None`` if not asked for.
        hidden: the last hidden state at the place before each action, which the output layer reads:
            that of the state in which the action was chosen; ``None`` if not asked for.
    """

    log_probs: Float[Tensor, "batch tokens"]
    entropy: Float[Tensor, "batch tokens"] | None
    hidden: Float[Tensor, "batch tokens size"] | None


def score_tokens(
    model: Any,
    experience: Experience,
    automaton: TokenAutomaton | None,
    temperature: float = 1.0,
    *,
    entropy: bool = False,
    hidden: bool = False,
    packing: Packing = "tree",
    max_row_tokens: int | None = None,
) -> TokenScores:
    """Score each action given the ids before it.

    Log-probabilities and entropies are float32, or the model's type where that is wider. However
    prefixes are shared, values and gradients are those of ``packing="none"`` up to rounding.

    Args:
        model: a causal language model, with an adapter or without, or what can be called like one.
        experience: the sequences and their actions, on the model's device.
        automaton: gives the ids that it forbids probability 0, as in sampling; ``None`` normalises over
            the model's full vocabulary.
        temperature: divides the logits, as in sampling.
        entropy: whether entropies are returned.
        hidden: whether hidden states are returned.
        packing: ``"none"`` computes each sequence by itself. ``"tree"`` computes a prefix that sequences
            share once, under a tree's attention mask; a model that cannot do that computes each sequence
            by itself, and the log says so. ``"depth_first"`` computes it once, too, path after path,
            with the activations of one path in memory; see :mod:`rftt.learners.forward.depth_first`.
        max_row_tokens: see :func:`~rftt.learners.forward.packing.pack_prefixes`; default what suits the
            model's attention.

    Raises:
        ValueError: if ``packing`` is ``"depth_first"`` and the model keeps no keys and values.
    """
    if not bool(experience.action_mask.any()):
        return _nothing(model, experience, entropy=entropy, hidden=hidden)
    if packing == "tree" and (obstacle := packing_obstacle(model, _longest(experience))):
        say_once(model, obstacle)
        packing = "none"
    if packing == "none":
        packed = _flat(experience)
    else:
        limit = row_tokens(model) if max_row_tokens is None else max_row_tokens
        if packing == "depth_first":
            limit = experience.ids.numel()
        packed = pack_prefixes(
            experience.ids, experience.attention_mask, experience.states, max_row_tokens=limit
        )
    targets, target_of_action = _targets(experience, packed)
    if packing == "depth_first":
        log_probs, entropies, states = depth_first_scores(
            model, packed, targets, automaton, temperature, hidden=hidden
        )
    else:
        is_tree = packing == "tree"
        mask = tree_mask(packed.subtree_end, model) if is_tree else experience.attention_mask.long()
        inputs = {"input_ids": packed.ids, "attention_mask": mask, "use_cache": False}
        if takes(model, "position_ids"):
            inputs["position_ids"] = packed.position_ids
        logits, states = logits_at(model, inputs, targets.parents, hidden=hidden)
        log_probs, entropies = chosen_log_probs(
            logits, targets.ids, targets.states, automaton, temperature
        )

    def flat(values: Tensor) -> Tensor:
        result = values.new_zeros((*experience.ids.shape, *values.shape[1:]))
        result[experience.action_mask] = values[target_of_action]
        return result

    return TokenScores(
        flat(log_probs), flat(entropies) if entropy else None, None if states is None else flat(states)
    )


def _longest(experience: Experience) -> int:
    return int(experience.attention_mask.sum(1).max())


def _nothing(model: Any, experience: Experience, *, entropy: bool, hidden: bool) -> TokenScores:
    """Score no action. A model that is sharded over processes must be called by all of them, so it is
    given one id, and everything hangs on its parameters as always."""
    device = experience.ids.device
    one = torch.zeros(1, 1, dtype=torch.int64, device=device)
    none = torch.zeros(0, dtype=torch.int64, device=device)
    inputs = {"input_ids": one, "attention_mask": torch.ones_like(one), "use_cache": False}
    logits, states = logits_at(model, inputs, none, hidden=hidden)
    zeros = (
        logits.sum().to(torch.promote_types(logits.dtype, torch.float32)).expand(experience.ids.shape)
    )
    of_hidden = None
    if states is not None:
        of_hidden = states.sum().expand(*experience.ids.shape, states.shape[1])
    return TokenScores(zeros, zeros if entropy else None, of_hidden)


def _flat(experience: Experience) -> PackedBatch:
    """Return the rows as they are."""
    shape, device = experience.ids.shape, experience.ids.device
    positions = (experience.attention_mask.cumsum(1) - 1).clamp(min=0)
    ends = experience.attention_mask.sum(1, keepdim=True).expand(shape)
    places = torch.arange(experience.ids.numel(), device=device).view(shape)
    return PackedBatch(experience.ids, positions, ends, places)


def _targets(experience: Experience, packed: PackedBatch) -> tuple[Targets, Int64[Tensor, " actions"]]:
    """Return the distinct actions, and for each action of the flat rows which of them it is."""
    actions = experience.action_mask
    distinct, target_of_action = packed.places[actions].unique(return_inverse=True)

    def of_targets(values: Int64[Tensor, " actions"]) -> Int64[Tensor, " targets"]:
        # The actions of a target agree, so it does not matter which is written last.
        return torch.empty_like(distinct).index_put_((target_of_action,), values)

    # Place 0 is never an action.
    parents = packed.places[:, :-1][actions[:, 1:]]
    ids, states = experience.ids[actions], experience.states[actions]
    return Targets(of_targets(parents), of_targets(ids), of_targets(states)), target_of_action
