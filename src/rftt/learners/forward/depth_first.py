"""Score a tree depth-first: each prefix once, with the activations of one path in memory.

The forward pass keeps no activations. It goes through the tree in depth-first order, a segment (tokens
without a branch between them) at a time, with the keys and values of the segments above in a cache. The
backward pass goes through it once more, now with gradients: each segment's backward runs after those of
its children, which by then have added up the gradients of its keys and values. So it costs one forward
pass more than ``packing="tree"``, as gradient checkpointing does, and gradients are the same.

The model is in evaluation mode meanwhile: without dropout, so that both passes see the same, and without
gradient checkpointing, which keeps no cache. A model that is sharded over processes needs
``packing="tree"``: its processes must not differ in how often they call it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from attrs import define, field, frozen
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import DynamicCache

from rftt.learners.forward.attention import base_model, takes
from rftt.learners.forward.distribution import chosen_log_probs
from rftt.learners.forward.model_call import logits_at
from rftt.learners.forward.packing import PackedBatch, Targets
from rftt.tokens.automaton import TokenAutomaton

_Past = Sequence[Float[Tensor, "1 heads tokens size"]]
"""Keys and values of a path: two tensors a layer, one layer after the other."""


@define(eq=False)
class Segment:
    """Tokens of a trie without a branch between them.

    Attributes:
        start, stop: their places in the packed row.
        first_target, last_target: the targets, sorted by parent, whose parents these are.
        children: the segments that follow the last of them; those without a target are left out.
    """

    start: int
    stop: int
    first_target: int = 0
    last_target: int = 0
    children: list[Segment] = field(factory=list)


def depth_first_scores(
    model: Any,
    packed: PackedBatch,
    targets: Targets,
    automaton: TokenAutomaton | None,
    temperature: float,
    *,
    hidden: bool,
) -> tuple[Float[Tensor, " targets"], Float[Tensor, " targets"], Float[Tensor, "targets size"] | None]:
    """Return log-probabilities, entropies and, if asked for, hidden states of the targets.

    Args:
        model: a causal language model.
        packed: everything in one row.
        targets: the actions.
        automaton, temperature: as in :func:`~rftt.learners.forward.score.score_tokens`.
        hidden: whether hidden states are returned.

    Raises:
        ValueError: if the model keeps no keys and values.
    """
    if not takes(model, "past_key_values") or getattr(base_model(model), "_is_stateful", False):
        raise ValueError(
            f"{type(base_model(model)).__name__} keeps no keys and values of its own past, so a tree "
            "cannot be computed depth-first: use packing='tree' or 'none'"
        )
    order = targets.parents.argsort(stable=True)
    walk = _Walk(
        model, packed.ids, packed.position_ids, automaton, temperature, hidden,
        Targets(targets.parents[order], targets.ids[order], targets.states[order]),
        _segments(packed.position_ids[0].tolist(), targets.parents[order].tolist()),
    )  # fmt: skip
    module = model if isinstance(model, nn.Module) else base_model(model)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    results = _DepthFirst.apply(walk, *trained)
    log_probs, entropies, *states = (values[order.argsort()] for values in results)
    return log_probs, entropies, states[0] if states else None


def _segments(depths: Sequence[int], parents: Sequence[int]) -> list[Segment]:
    """Return the first segments of the trees of a packed row, with all below that have a target.

    Args:
        depths: of each place, in depth-first pre-order.
        parents: of the targets, sorted.
    """
    path: list[int] = []
    parent, children = [-1] * len(depths), [0] * len(depths)
    for place, depth in enumerate(depths):
        del path[depth:]
        if path:
            parent[place] = path[-1]
            children[path[-1]] += 1
        path.append(place)
    roots: list[Segment] = []
    segment_of: list[Segment] = []
    for place, above in enumerate(parent):
        if above == place - 1 and above >= 0 and children[above] == 1:
            segment_of.append(segment_of[-1])
            segment_of[-1].stop = place + 1
        else:
            segment_of.append(Segment(place, place + 1))
            (segment_of[above].children if above >= 0 else roots).append(segment_of[-1])
    for target, place in enumerate(parents):
        segment = segment_of[place]
        if segment.last_target == 0:
            segment.first_target = target
        segment.last_target = target + 1
    # A child's number is larger, so that below each segment everything is decided before itself.
    for segment in reversed(list(dict.fromkeys(segment_of))):
        segment.children = [child for child in segment.children if child.children or child.last_target]
    return [root for root in roots if root.children or root.last_target]


@frozen(eq=False)
class _Walk:
    """What a depth-first pass needs; ids and positions are one packed row."""

    model: Any
    ids: Int64[Tensor, "1 places"]
    positions: Int64[Tensor, "1 places"]
    automaton: TokenAutomaton | None
    temperature: float
    hidden: bool
    targets: Targets
    roots: list[Segment]

    def run(self, segment: Segment, past: _Past) -> tuple[list[Tensor], list[Tensor]]:
        """Return the scores of a segment's targets, and keys and values of the path to its end."""
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)) or None)
        here = slice(segment.start, segment.stop)
        inputs = {"input_ids": self.ids[:, here], "past_key_values": cache, "use_cache": True}
        if takes(self.model, "position_ids"):
            inputs["position_ids"] = self.positions[:, here]
        found = slice(segment.first_target, segment.last_target)
        places = self.targets.parents[found] - segment.start
        logits, states = logits_at(self.model, inputs, places, hidden=self.hidden)
        length = (past[0].shape[2] if past else 0) + segment.stop - segment.start
        kept: list[Any] = [tensor for layer in cache for tensor in layer[:2]]
        if not kept or any(tensor is None or tensor.shape[2] != length for tensor in kept):
            raise ValueError(
                f"{type(base_model(self.model)).__name__} does not keep the keys and values of all "
                f"{length} tokens: use packing='tree' or 'none'"
            )
        scores = chosen_log_probs(
            logits, self.targets.ids[found], self.targets.states[found], self.automaton, self.temperature
        )
        return [*scores, *([] if states is None else [states])], kept


class _DepthFirst(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, walk: _Walk, *trained: nn.Parameter) -> tuple[Tensor, ...]:
        device = walk.ids.device.type
        ctx.walk, ctx.trained = walk, trained
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        ctx.set_materialize_grads(False)
        found: list[list[Tensor]] = []
        with _evaluating(walk.model), _autocast(*ctx.autocast):
            waiting: list[tuple[Segment, _Past]] = [(root, ()) for root in reversed(walk.roots)]
            while waiting:
                segment, past = waiting.pop()
                scores, kept = walk.run(segment, past)
                found.append(scores)
                waiting += [(child, kept) for child in reversed(segment.children)]
        # Depth-first pre-order is the order of the targets.
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))

    @staticmethod
    def backward(ctx: Any, *wanted: Tensor | None) -> tuple[Tensor | None, ...]:
        backward = _Backward(ctx.walk, ctx.trained, wanted)
        with torch.enable_grad(), _evaluating(ctx.walk.model), _autocast(*ctx.autocast):
            for root in ctx.walk.roots:
                backward.run(root, [])
        return (None, *backward.gradients)


class _Backward:
    """Adds up the gradients of parameters, segment by segment.

    Args:
        walk: what is computed.
        trained: the parameters.
        wanted: the gradient of each kind of score, for all targets.
    """

    def __init__(
        self, walk: _Walk, trained: Sequence[nn.Parameter], wanted: Sequence[Tensor | None]
    ) -> None:
        self.walk, self.trained, self.wanted = walk, trained, wanted
        self.gradients: list[Tensor | None] = [None] * len(trained)

    def run(self, segment: Segment, past: _Past) -> list[Tensor | None]:
        """Go back through a segment and all below it; return the gradients of the past."""
        scores, kept = self.walk.run(segment, past)
        of_kept: list[Tensor | None] = [None] * len(kept)
        for child in segment.children:
            _add(of_kept, self.run(child, [tensor.detach().requires_grad_() for tensor in kept]))
        found = slice(segment.first_target, segment.last_target)
        of_scores = [None if gradient is None else gradient[found] for gradient in self.wanted]
        pairs = [
            (tensor, gradient)
            for tensor, gradient in zip([*scores, *kept], [*of_scores, *of_kept], strict=True)
            if gradient is not None and tensor.requires_grad
        ]
        if not pairs:
            return [None] * len(past)
        inputs = [*self.trained, *past]
        gradients = torch.autograd.grad(
            [tensor for tensor, _ in pairs], inputs, [gradient for _, gradient in pairs],
            allow_unused=True,
        )  # fmt: skip
        _add(self.gradients, gradients[: len(self.trained)])
        return list(gradients[len(self.trained) :])


def _add(sums: list[Tensor | None], more: Sequence[Tensor | None]) -> None:
    for place, tensor in enumerate(more):
        if tensor is not None:
            before = sums[place]
            sums[place] = tensor if before is None else before + tensor


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Put all modules into evaluation mode; an adapter can be in training while its model is not."""
    module = model if isinstance(model, nn.Module) else base_model(model)
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _autocast(device: str, dtype: torch.dtype, enabled: bool) -> torch.autocast:
    """Return autocast as it was in the forward pass, without its cache of cast weights: one that was
    filled without gradients has none."""
    return torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False)
