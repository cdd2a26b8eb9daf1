"""Weights of a vLLM engine: how they are told apart and replaced.

All that depends on how vLLM takes weights is here.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

_HEAD: Final = "lm_head.weight"

_BLOCKS: Final = 64
"""Blocks of 4096 bytes of each file that are compared; tuning changes all."""


def reload(engine: Any, weights: Mapping[str, Tensor]) -> None:
    """Replace an engine's weights, through ``reload_weights`` of its workers.

    They are handed over as they are where the engine runs in this process, and through a file in the
    temporary folder where it does not.

    Args:
        engine: a ``vllm.v1.engine.llm_engine.LLMEngine``.
        weights: all of the model's, under the names of its checkpoint.

    Raises:
        ValueError: if the output matrix is missing: vLLM would go on without one, even if it is tied to
            the input matrix.
    """
    if not any(name.endswith(_HEAD) for name in weights):
        raise ValueError(
            f"weights: {_HEAD} is missing; it must be given, also where it is tied to the input matrix"
        )
    if _runs_here(engine):
        engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
        return
    with TemporaryDirectory(prefix="rftt-weights-") as folder:
        # Tensors that share memory cannot be saved together.
        own = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
               for name, tensor in weights.items()}  # fmt: skip
        save_file(own, Path(folder) / "model.safetensors")
        engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})


def named_weights(model: torch.nn.Module) -> Mapping[str, Tensor]:
    """Return a transformers model's weights under the names of its checkpoint, tied ones too. An
    adapter's are merged into those of its base, for which the model is copied."""
    if isinstance(model, PeftModel):
        model = copy.deepcopy(model).merge_and_unload()
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model: {type(model).__name__} is neither transformers' nor PEFT's")
    weights: Mapping[str, Tensor] = revert_weight_conversion(model, model.state_dict())
    return weights


def checkpoint_fingerprint(model: Path | str) -> Mapping[str, Any]:
    """Describe a model's folder by a sample of the bytes of its weights, or a name by itself."""
    found = {}
    for path in sorted(Path(model).glob("*.safetensors")):
        digest, size = hashlib.blake2b(digest_size=8), path.stat().st_size
        with path.open("rb") as file:
            for start in range(0, size, max(4096, size // _BLOCKS)):
                file.seek(start)
                digest.update(file.read(4096))
        found[path.name] = {"bytes": size, "sample": digest.hexdigest()}
    return found or {"name": str(model)}


def _runs_here(engine: Any) -> bool:
    """Return whether the engine and its only worker run in this process."""
    from vllm.v1.engine.core_client import InprocClient

    alone = engine.vllm_config.parallel_config.world_size == 1
    return alone and isinstance(engine.engine_core, InprocClient)
