"""Weights into a running vLLM engine. All that depends on how vLLM takes weights is here."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

_HEAD = "lm_head.weight"


def reload(engine: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Put weights in the place of an engine's, through ``reload_weights`` of its workers.

    They are handed over as they are where the engine runs in this process, and through a file in the
    temporary folder where it does not.

    Args:
        engine: a ``vllm.v1.engine.llm_engine.LLMEngine``.
        weights: all of the model's, under the names of its checkpoint.

    Raises ``ValueError`` where the output matrix is missing: vLLM would go on without one, even if it is
    tied to the input matrix.
    """
    given = dict(weights)
    if not any(name.endswith(_HEAD) for name in given):
        raise ValueError(
            f"weights: {_HEAD} is missing; it must be given, also where it is tied to the input matrix"
        )
    if _is_here(engine):
        engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(given.items())})
        return
    with TemporaryDirectory(prefix="rftt-weights-") as folder:
        # Tensors that share memory cannot be saved together.
        own = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
               for name, tensor in given.items()}  # fmt: skip
        save_file(own, Path(folder) / "model.safetensors")
        engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})


def named_weights(model: torch.nn.Module) -> Mapping[str, Tensor]:
    """A transformers model's weights under the names of its checkpoint, tied ones too; an adapter's
    merged into those of its base, for which the model is copied."""
    from peft import PeftModel

    if isinstance(model, PeftModel):
        model = copy.deepcopy(model).merge_and_unload()
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model: {type(model).__name__} is neither transformers' nor PEFT's")
    weights: Mapping[str, Tensor] = revert_weight_conversion(model, model.state_dict())
    return weights


def _is_here(engine: Any) -> bool:
    """Whether the engine and its only worker run in this process."""
    from vllm.v1.engine.core_client import InprocClient

    alone = engine.vllm_config.parallel_config.world_size == 1
    return alone and isinstance(engine.engine_core, InprocClient)
