"""What a sampler must know of its model's state: its mode, its weights and its active adapter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from attrs import frozen
from transformers import PreTrainedModel

from rftt.samplers.sampler import SampleRequest
from rftt.samplers.sampling import SamplingParams

_REMEDY: Final = (
    "look for weights that are not finite, and load a model that overflows in half precision in float32 "
    "or bfloat16"
)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode inside, all of it: no dropout, no gradient checkpointing.

    PEFT leaves adapters in training mode inside a model in evaluation mode, so each module is asked.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@frozen(eq=False)
class WeightsWatch:
    """The parameters and adapter layers that a model has now.

    Optimizers and ``load_state_dict`` change a parameter's version. Switching, disabling or merging an
    adapter of PEFT need not change any, so the state of adapter layers counts, too.
    """

    parameters: Sequence[torch.nn.Parameter]
    adapters: Sequence[Any]

    @staticmethod
    def of(model: torch.nn.Module) -> WeightsWatch:
        """List a model's parameters and adapter layers."""
        adapters = [module for module in model.modules() if hasattr(module, "_disable_adapters")]
        return WeightsWatch(list(model.parameters()), adapters)

    def version(self) -> object:
        """Return what is equal as long as the weights are, within this process."""
        parameters = [(id(p), p._version, p.data_ptr()) for p in self.parameters]
        return parameters, self.adapter_state()

    def adapter_state(self) -> list[list[object]]:
        """Return, for each adapter layer, which adapters are active or merged, and their scaling."""
        return [
            [
                bool(layer._disable_adapters),
                list(layer.active_adapters),
                list(getattr(layer, "merged_adapters", ())),
                dict(getattr(layer, "scaling", {})),
            ]
            for layer in self.adapters
        ]


def context_length(model: PreTrainedModel) -> int | None:
    """Return the most ids that a model takes, ``None`` if its config does not say."""
    length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if length is None else int(length)


def end_ids(model: PreTrainedModel) -> frozenset[int]:
    """Return the ids that end a text by the model's generation config, which may list several."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if ends is None:
        return frozenset()
    return frozenset([ends] if isinstance(ends, int) else ends)


def describe_model(model: PreTrainedModel) -> str:
    """Return a model's class and where it is from, for errors."""
    base: Any = model
    if hasattr(base, "get_base_model"):
        base = base.get_base_model()
    place = getattr(getattr(base, "config", None), "name_or_path", "")
    return f"{type(base).__name__}{f' from {place}' if place else ''}"


def non_finite(
    model: PreTrainedModel, requests: Sequence[tuple[SampleRequest, int]]
) -> FloatingPointError:
    """Return the error for logits that are NaN or infinite, naming the model and the requests.

    Args:
        model: what gave the logits.
        requests: the requests at fault, and how many ids each had drawn.
    """
    request, drawn = requests[0]
    return FloatingPointError(
        f"{describe_model(model)}: the logits are NaN or infinite for {len(requests)} requests, the "
        f"first with seed {request.seed} after a prompt of {len(request.prompt)} ids and {drawn} drawn "
        f"ids; {_REMEDY}"
    )


def check_log_probs(
    model: PreTrainedModel,
    prompts: Sequence[tuple[int, ...]],
    log_probs: Sequence[Mapping[int, float]],
) -> None:
    """Raise ``FloatingPointError``, naming the model and the prompt, if a log-probability is NaN."""
    for number, (prompt, found) in enumerate(zip(prompts, log_probs, strict=True)):
        if any(math.isnan(log_prob) for log_prob in found.values()):
            raise FloatingPointError(
                f"{describe_model(model)}: the logits are NaN or infinite after prompt {number} of "
                f"{len(prompts)}, of {len(prompt)} ids; {_REMEDY}"
            )


def fingerprint_parts(model: torch.nn.Module, params: SamplingParams) -> Mapping[str, Any]:
    """Return what the fingerprint of a sampler is made of: how ids are drawn, weights, adapters."""
    adapters = WeightsWatch.of(model).adapter_state()
    return {"sampling_params": params, "model": model, "adapters": adapters}
