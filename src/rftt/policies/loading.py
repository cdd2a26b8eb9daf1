"""One door to policies: a plain model, a model with functional tokens, or an adapter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rftt.policies.adapters import ADAPTER, load_adapter, load_base
from rftt.policies.chat import (
    SYSTEM,
    WorkedExample,
    boxed_openings,
    chat_prompts,
    chat_question,
    plain_prompts,
    plain_question,
    solution_text,
)
from rftt.policies.functional import FunctionalPolicy
from rftt.policies.prompted import Choice, PromptedPolicy
from rftt.problems.problem import Problem, question_line
from rftt.samplers.openai import ServerSampler
from rftt.samplers.plain import PlainSampler
from rftt.samplers.sampler import Sampler
from rftt.samplers.transformers.sampler import TransformersSampler
from rftt.samplers.vllm.sampler import VLLMSampler
from rftt.tokens.embeddings import check_token_embeddings
from rftt.tokens.functional import FunctionalTokens
from rftt.tokens.grammar import Grammar

_LOG: Final = logging.getLogger(__name__)

Backend = Literal["transformers", "vllm", "server"]
"""What produces the tokens: a sampler of this process, vLLM's engine, or a server elsewhere."""


def load_policy(
    path_or_name: Path | str,
    *,
    backend: Backend = "transformers",
    grammar: Grammar | None = None,
    prompted: bool = False,
    functions: Collection[str] | None = None,
    prompts: Mapping[str, str] | None = None,
    openings: Mapping[str, str] | None = None,
    choice: Choice | None = None,
    examples: Sequence[WorkedExample] = (),
    question: Callable[[Problem], str] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    **sampling: Any,
) -> FunctionalPolicy | PromptedPolicy:
    """Load a policy from a model in transformers' format, a model with functional tokens, or an adapter.

    Args:
        path_or_name: a folder, or a name that transformers can find. A folder with an
            ``adapter_config.json`` is an adapter: its base model is loaded and the two are merged. For
            a server, the name that it knows the model by.
        backend: :class:`TransformersSampler`, :class:`VLLMSampler` or :class:`ServerSampler`; the last
            is for prompted policies. Where the first refuses a model family, :class:`PlainSampler`
            takes its place, with a warning in the log.
        grammar: the functions, and which may follow which; default the paper's.
        prompted: ask for each step with a prompt, which any model can be, instead of by functional
            tokens, which a model must have been taught.
        functions, prompts, openings, choice: as in :class:`PromptedPolicy`; only with ``prompted``. A
            tokenizer with a chat template gets prompts and openings of :mod:`rftt.policies.chat` by
            default, whose answers are in the box that verifiers look for.
        examples: questions and their worked solutions, which come before each problem; only with
            ``prompted``. A solution is a list of steps, each its function and its body:
            ``("1 + 2 = ?", [("next_step", "1 + 2 = 3"), ("direct_answer", r"\\boxed{3}")])``.
        question: the text with which a problem opens the context. Default of a prompted policy with a
            chat template: the system text of :mod:`rftt.policies.chat`, the examples and the problem as
            turns. Default of others: the examples, and the problem's question on a line.
        dtype: of the weights; a server has its own.
        device: where to put them, only with transformers; default a GPU if there is one.
        **sampling: as in the sampler: ``temperature``, ``top_p``, ``batch_size`` ... A server needs
            ``url`` and ``tokenizer``, a folder or name to load the model's tokenizer from.

    Raises:
        FileNotFoundError: if a folder holds no model, or the base of an adapter is not found.
        ImportError: if the backend is not installed.
        ValueError: if the functional tokens are missing, saying how to add them, or the model or the
            adapter holds nothing for them.
    """
    grammar = grammar or Grammar.default()
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, not {backend!r}")
    asked = {
        "functions": functions,
        "prompts": prompts,
        "openings": openings,
        "choice": choice,
        "examples": examples or None,
    }
    if not prompted and (given := [name for name, value in asked.items() if value is not None]):
        raise ValueError(
            f"{', '.join(given)}: only a prompted policy takes that; pass prompted=True to ask in words"
        )
    if examples and question is not None:
        raise ValueError("examples and question: a question of your own writes the examples itself")
    if backend != "transformers" and device is not None:
        raise ValueError(f"device is for the backend transformers: {backend} chooses its own")
    tokens = None
    sampler: Sampler
    if backend == "server":
        if not prompted:
            raise ValueError(
                "a server cannot keep to a grammar of functional tokens: pass prompted=True, or take "
                "another backend"
            )
        sampler, tokenizer = _server_sampler(str(path_or_name), **sampling)
    else:
        model, tokenizer = _model_source(path_or_name, backend, dtype)
        if not prompted:
            tokens = _find_tokens(path_or_name, tokenizer, grammar)
            if isinstance(model, PreTrainedModel):
                check_token_embeddings(model, tokens)
        if backend == "vllm":
            sampler = VLLMSampler(model, tokenizer, dtype=dtype, **sampling)
        else:
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
            sampler = _transformers_sampler(model.to(device), tokenizer, **sampling)
    if tokens is not None:
        return FunctionalPolicy(sampler, tokenizer, tokens, question=question or question_line)
    is_chat = tokenizer.chat_template is not None
    prompts = (chat_prompts if is_chat else plain_prompts)(grammar) | dict(prompts or {})
    written = [(asked, solution_text(prompts, steps)) for asked, steps in examples]
    if is_chat:
        openings = boxed_openings(grammar) if openings is None else openings
        question = question or chat_question(tokenizer, system=SYSTEM, examples=written)
    else:
        question = question or plain_question(written)
    return PromptedPolicy(
        sampler, tokenizer, grammar,
        functions=functions, prompts=prompts, openings=openings, choice=choice or "uniform",
        question=question,
    )  # fmt: skip


def _transformers_sampler(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **sampling: Any
) -> Sampler:
    """Return the fast sampler, or the plain one for a model family that the fast one refuses."""
    try:
        return TransformersSampler(model, tokenizer, **sampling)
    except ValueError as error:
        # A wrong setting is refused by the fast sampler for every family.
        if getattr(model, "_supports_attention_backend", False):
            raise
        if "memory_bytes" in sampling:
            raise ValueError(
                f"memory_bytes: {error}, and PlainSampler cannot keep to it; give a batch_size"
            ) from error
        # It has no prefix cache.
        sampling.pop("prefix_bytes", None)
        plain = PlainSampler(model, tokenizer, **sampling)
        _LOG.warning("%s; PlainSampler, which is slower, takes its place", error)
        return plain


def _server_sampler(
    model: str, *, url: str | None = None, tokenizer: Path | str | None = None, **sampling: Any
) -> tuple[ServerSampler, PreTrainedTokenizerBase]:
    if url is None or tokenizer is None:
        raise ValueError(
            "a server needs url=, such as http://localhost:8000/v1, and tokenizer=, a folder or name to "
            "load the model's tokenizer from"
        )
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    return ServerSampler(url, model, loaded, **sampling), loaded


def _model_source(
    path_or_name: Path | str, backend: Backend, dtype: torch.dtype
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return what the sampler is made from: a model, or where vLLM finds one that needs no merging."""
    folder = Path(path_or_name)
    if backend == "vllm" and not (folder / ADAPTER).is_file():
        _check(folder)
        return path_or_name, AutoTokenizer.from_pretrained(path_or_name)
    return load_model(path_or_name, dtype=dtype)


def _find_tokens(
    path_or_name: Path | str, tokenizer: PreTrainedTokenizerBase, grammar: Grammar
) -> FunctionalTokens:
    try:
        return FunctionalTokens.find(tokenizer, grammar)
    except ValueError as error:
        raise ValueError(
            f"{path_or_name}: {error}. Then tune the model: new tokens mean nothing to it. Or pass "
            "prompted=True to ask for each step in words"
        ) from error


def load_model(
    path_or_name: Path | str, *, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, with an adapter merged in if it is one.

    Raises:
        FileNotFoundError: naming the folder, if it is missing or holds no model; or an adapter's base.
        ValueError: if an adapter brings tokens for which neither it nor its base holds embeddings.
    """
    folder = Path(path_or_name)
    if (folder / ADAPTER).is_file():
        return load_adapter(folder, dtype)
    _check(folder)
    return load_base(path_or_name, dtype), AutoTokenizer.from_pretrained(path_or_name)


def _check(folder: Path) -> None:
    """Raise ``FileNotFoundError`` if this is meant as a folder and holds no model."""
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"model folder {folder} has no config.json: give one written by save_pretrained"
        )
    if not folder.exists() and (folder.is_absolute() or len(folder.parts) > 2):
        raise FileNotFoundError(
            f"model folder {folder} does not exist: give one written by save_pretrained"
        )
