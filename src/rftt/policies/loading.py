"""One door to policies: a plain model, a model with functional tokens, or an adapter."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rftt.policies.functional import FunctionalPolicy
from rftt.policies.prompted import PromptedPolicy
from rftt.policies.transformers_sampler import TransformersSampler
from rftt.problems.problem import Problem, question_line
from rftt.tokens.embeddings import make_room
from rftt.tokens.functional import FunctionalTokens
from rftt.tokens.grammar import Grammar

_ADAPTER: Final = "adapter_config.json"


def load_policy(
    path_or_name: Path | str,
    *,
    grammar: Grammar | None = None,
    prompted: bool = False,
    functions: Collection[str] | None = None,
    prompts: Mapping[str, str] | None = None,
    question: Callable[[Problem], str] = question_line,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    **sampling: Any,
) -> FunctionalPolicy | PromptedPolicy:
    """A policy from a model in transformers' format, a model with functional tokens, or an adapter.

    Args:
        path_or_name: a folder, or a name that transformers can find. A folder with an
            ``adapter_config.json`` is an adapter: its base model is loaded and the two are merged.
        grammar: the functions and who may follow whom; default the paper's.
        prompted: ask for each step with a prompt, which any model can be, instead of by functional
            tokens, which a model must have been taught.
        functions, prompts: as in :class:`PromptedPolicy`; only with ``prompted``.
        question: how a problem opens the context.
        dtype: of the weights.
        device: where to put them; default a GPU if there is one.
        **sampling: as in :class:`TransformersSampler`: ``temperature``, ``top_p``, ``batch_size`` ...

    Raises:
        FileNotFoundError: if a folder holds no model.
        ValueError: if the functional tokens are missing, saying how to add them.
    """
    grammar = grammar or Grammar.default()
    if not prompted and (functions is not None or prompts is not None):
        raise ValueError("functions and prompts are those of a prompted policy: pass prompted=True")
    model, tokenizer = load_model(path_or_name, dtype=dtype)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    sampler = TransformersSampler(model.to(device), tokenizer, **sampling)  # type: ignore[arg-type]
    if prompted:
        return PromptedPolicy(
            sampler, tokenizer, grammar, functions=functions, prompts=prompts, question=question
        )
    try:
        tokens = FunctionalTokens.find(tokenizer, grammar)
    except ValueError as error:
        raise ValueError(
            f"{path_or_name}: {error}. Then tune the model: new tokens mean nothing to it. Or pass "
            "prompted=True to ask for each step in words"
        ) from error
    return FunctionalPolicy(sampler, tokenizer, tokens, question=question)


def load_model(
    path_or_name: Path | str, *, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, with an adapter merged in if it is one.

    Raises ``FileNotFoundError`` naming the folder if it is missing or holds no model.
    """
    folder = Path(path_or_name)
    if (folder / _ADAPTER).is_file():
        return _load_adapter(folder, dtype)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"model folder {folder} has no config.json: give one written by save_pretrained"
        )
    if not folder.exists() and (folder.is_absolute() or len(folder.parts) > 2):
        raise FileNotFoundError(
            f"model folder {folder} does not exist: give one written by save_pretrained"
        )
    model = AutoModelForCausalLM.from_pretrained(path_or_name, dtype=dtype)
    return model.eval(), AutoTokenizer.from_pretrained(path_or_name)


def _load_adapter(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from peft import PeftModel

    base = json.loads((folder / _ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
    model, _ = load_model(base, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # Rows for the functional tokens; the adapter holds what is in them.
    make_room(model, tokenizer)
    return PeftModel.from_pretrained(model, folder).merge_and_unload().eval(), tokenizer
