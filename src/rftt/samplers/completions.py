"""The completions protocol: what is sent to a server, and what its reply says in each server's form.

Sources: vLLM's OpenAI-compatible server (``vllm.entrypoints.openai.protocol``), llama.cpp's
``tools/server/README.md``, and OpenAI's reference of ``/v1/completions``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from attrs import frozen

from rftt.samplers.sampling import SamplingParams

_NEUTRAL: Final = {
    # vLLM takes what its model's generation_config.json says, llama.cpp top_k 40 and min_p 0.05.
    "top_k": 0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    # llama.cpp alone.
    "repeat_penalty": 1.0,
    "typical_p": 1.0,
    "top_n_sigma": -1.0,
    "xtc_probability": 0.0,
    "dry_multiplier": 0.0,
    "dynatemp_range": 0.0,
    "mirostat": 0,
    # Truncation looks at what temperature gives; by default temperature comes last.
    "samplers": ["temperature", "top_p", "min_p"],
}
"""Settings that change nothing, in place of a server's own."""

_TOO_LONG: Final = re.compile(
    r"context (length|size|window)|exceed_context_size|maximum (model|context|input|sequence) length"
    r"|prompt (is )?too long|longer than the maximum",
    re.IGNORECASE,
)


@frozen
class Reply:
    """What a server says of one completion.

    Attributes:
        ids: token ids; ``None`` where it gives text alone.
        text: the text.
        log_probs: for each token, as reported; NaN where it is not.
        processed: whether they are those of the distribution drawn from, by the server's own word.
        stopped: whether it ended at a stop or an end of text.
    """

    ids: tuple[int, ...] | None
    text: str
    log_probs: tuple[float, ...]
    processed: bool
    stopped: bool


def completion_body(
    model: str, prompt: Sequence[int], max_tokens: int, seed: int, params: SamplingParams
) -> dict[str, Any]:
    """Return the body of a completions request, every setting of sampling in it."""
    return {
        **_NEUTRAL,
        "model": model,
        "prompt": list(prompt),
        "max_tokens": max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "seed": seed,
        "logprobs": 1,
        "return_token_ids": True,
        # llama.cpp reports what it draws from, after temperature and truncation, only if asked.
        "post_sampling_probs": not (params.has_full_support and params.temperature == 1),
    }


def banned(ids: Collection[int]) -> dict[str, int]:
    """Return a ``logit_bias`` by which no server samples some ids."""
    return {str(i): -100 for i in sorted(ids)}


def read_reply(reply: Any) -> Reply:
    """Read the first completion of a reply.

    Raises:
        ValueError: with the server's words, if there is none.
    """
    try:
        choice = reply["choices"][0]
        text, stopped = str(choice["text"]), choice["finish_reason"] == "stop"
    except (KeyError, TypeError, IndexError) as error:
        raise no_completion(reply) from error
    reported = choice.get("logprobs") or {}
    ids = choice.get("token_ids")
    processed = False
    if content := reported.get("content"):
        # llama.cpp, which gives ids; and chats, of which some do.
        processed = "prob" in content[0]
        log_probs = [_log_prob(token) for token in content]
        if ids is None and "id" in content[0]:
            ids = [token["id"] for token in content]
    else:
        log_probs = [math.nan if p is None else float(p) for p in reported.get("token_logprobs") or []]
    known = None if ids is None else tuple(map(int, ids))
    return Reply(known, text, tuple(log_probs), processed, stopped)


def no_completion(reply: Any) -> ValueError:
    """Return the error for a reply that holds no completion, with the server's words."""
    return ValueError(f"the reply holds no completion: {str(reply)[:300]}")


def _log_prob(token: Mapping[str, Any]) -> float:
    if (prob := token.get("prob")) is not None:
        return math.log(prob) if prob > 0 else math.nan
    log_prob = token.get("logprob")
    return math.nan if log_prob is None else float(log_prob)


def read_max_length(reply: Any, model: str) -> int | None:
    """Return the length of a model's context as ``/models`` gives it; ``None`` if it does not.

    A server of one model may know it by another name than a client asks for.
    """
    try:
        listed = {each["id"]: each for each in reply["data"]}
        found = listed[model] if model in listed or len(listed) > 1 else next(iter(listed.values()))
        length = found.get("max_model_len") or (found.get("meta") or {}).get("n_ctx")
    except (KeyError, TypeError, AttributeError, StopIteration):
        return None
    return length if isinstance(length, int) else None


def says_too_long(status: int, words: str) -> bool:
    """Return whether an error says that prompt and completion are longer than the model's context."""
    return status in (400, 413, 422, 500) and _TOO_LONG.search(words) is not None
