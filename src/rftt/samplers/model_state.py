"""What a sampler must know of its model's state: its mode, its weights and its active adapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from attrs import frozen

from rftt.samplers.sampling import SamplingParams


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


def fingerprint_parts(model: torch.nn.Module, params: SamplingParams) -> Mapping[str, Any]:
    """Return what the fingerprint of a sampler is made of: how ids are drawn, weights, adapters."""
    adapters = WeightsWatch.of(model).adapter_state()
    return {"sampling_params": params, "model": model, "adapters": adapters}
