"""The chat-completions protocol: a prompt as turns, the last of which the server goes on with.

Sources: vLLM's OpenAI-compatible server (``vllm.entrypoints.openai.chat_completion.protocol``),
llama.cpp's ``oaicompat_chat_params_parse`` in ``tools/server/server-common.cpp``, and OpenAI's reference
of ``/v1/chat/completions``.

vLLM and llama.cpp go on with a last turn of the assistant if ``continue_final_message`` says so, older
builds of llama.cpp anyway. Other servers may begin another turn and say nothing, but the number of ids
that they read shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rftt.samplers.completions import no_completion

Turns = list[dict[str, str]]
"""Messages, each with a role and a content."""

_MARKS: Final = ("first7mark", "second7mark", "third7mark")
"""Contents that no template changes, between which is what a template writes."""


class ChatTemplate:
    """Finds the turns that a prompt was made of, by the tokenizer's own chat template.

    Args:
        tokenizer: the model's.
        **settings: of the template, such as ``enable_thinking=False``.

    Raises:
        ValueError: if the tokenizer has no chat template, or one that changes what is said.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, **settings: Any) -> None:
        if tokenizer.chat_template is None:
            raise ValueError(
                "the tokenizer has no chat template, so a prompt has no turns: leave out endpoint='chat'"
            )
        self.tokenizer = tokenizer
        self.settings = settings
        first, second, third = _MARKS
        user, assistant = _turn("user", first), _turn("assistant", second)
        self._head, self._opening = self._between([user], first)
        around = self._between([user, assistant, _turn("user", third)], *_MARKS)
        self._to_assistant, self._to_user = around[1:3]
        try:
            system = _turn("system", second)
            self._system_head, self._from_system, _ = self._between([system, user], second, first)
        except (TemplateError, ValueError):  # it takes no such turn
            self._system_head = self._from_system = ""
        self.turns = lru_cache(maxsize=4096)(self._turns)

    def _turns(self, prompt: tuple[int, ...]) -> tuple[Turns, tuple[int, ...]]:
        """Return the turns of a prompt, the last of them the assistant's if it has begun to speak, and
        the ids that a server makes of them: other than the prompt's where text was sampled in other
        pieces than the tokenizer cuts it into.

        Raises:
            ValueError: if the template does not make the prompt of any turns.
        """
        text = str(self.tokenizer.decode(list(prompt), clean_up_tokenization_spaces=False))
        before, opening, said = text.rpartition(self._opening)
        for turns in (self._split(before), self._split_system(before)):
            if opening and turns and self._render(turns) + said == text:
                ids = tuple(self.tokenizer.encode(text, add_special_tokens=False))
                return [*turns, *([_turn("assistant", said)] if said else [])], ids
        raise ValueError(
            f"the prompt {text[:200]!r}... is not what the tokenizer's chat template makes of turns: "
            "give the policy question=chat_question(tokenizer) of rftt.policies.chat, with the settings "
            "of the template in fields={'chat_template_kwargs': ...}, too"
        )

    def _split(self, text: str) -> Turns:
        """Split what comes before the assistant's last turn; nothing if it does not begin as it must."""
        return self._alternate(text[len(self._head) :]) if text.startswith(self._head) else []

    def _split_system(self, text: str) -> Turns:
        if not self._system_head and not self._from_system:
            return []
        system, between, rest = text[len(self._system_head) :].partition(self._from_system)
        begins = text.startswith(self._system_head) and between
        return [_turn("system", system), *self._alternate(rest)] if begins else []

    def _alternate(self, text: str) -> Turns:
        turns: Turns = []
        while self._to_assistant in text:
            user, _, text = text.partition(self._to_assistant)
            assistant, _, text = text.partition(self._to_user)
            turns += [_turn("user", user), _turn("assistant", assistant)]
        return [*turns, _turn("user", text)]

    def _between(self, turns: Turns, *contents: str) -> list[str]:
        """Return what the template writes before, between and after contents."""
        text, parts = self._render(turns), []
        for content in contents:
            part, found, text = text.partition(content)
            if not found:
                raise ValueError(f"the chat template does not write out {content!r} where it is said")
            parts.append(part)
        return [*parts, text]

    def _render(self, turns: Turns) -> str:
        text = self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, **self.settings
        )
        return str(text)


def chat_body(body: Mapping[str, Any], turns: Turns) -> dict[str, Any]:
    """Return the body of a chat-completions request: that of a completions request with turns in place
    of its prompt."""
    goes_on = turns[-1]["role"] == "assistant"
    return {
        **{name: value for name, value in body.items() if name != "prompt"},
        "messages": turns,
        "add_generation_prompt": not goes_on,
        "continue_final_message": goes_on,
        "logprobs": True,
        "top_logprobs": 1,
    }


def completion_of(reply: Any) -> dict[str, Any]:
    """Return a reply in the form of a completion.

    Its text is that of the tokens whose log-probabilities are reported. The turn's content is not looked
    at: llama.cpp begins it with what the turn held before.

    Raises:
        ValueError: with the server's words, if there is no completion.
    """
    try:
        choice = dict(reply["choices"][0])
        tokens = (choice.get("logprobs") or {}).get("content") or []
        choice["text"] = b"".join(map(_bytes, tokens)).decode("utf-8", "replace")
        return {**reply, "choices": [choice]}
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise no_completion(reply) from error


def check_prompt(url: str, completion: Mapping[str, Any], ids: Sequence[int]) -> None:
    """Check that a reply is one to a prompt, and says what was sampled.

    Args:
        url: the server's.
        completion: from :func:`completion_of`.
        ids: of the prompt.

    Raises:
        RuntimeError: naming the server and what is wrong.
    """
    if fault := _fault(completion, ids):
        raise RuntimeError(
            f"{url} {fault}: serve the model with /completions, or with a chat that goes on with a last "
            "turn of the assistant, reports log-probabilities, and has the tokenizer's chat template "
            "with the settings in fields={'chat_template_kwargs': ...}"
        )


def _fault(completion: Mapping[str, Any], ids: Sequence[int]) -> str | None:
    choice, usage = completion["choices"][0], completion.get("usage") or {}
    # vLLM says which ids it read, other servers how many.
    read, count = completion.get("prompt_token_ids"), usage.get("prompt_tokens")
    if read is not None and list(read) != list(ids):
        return f"read other ids than the {len(ids)} of the prompt"
    if read is None and count is None:
        return "does not say how many ids it read"
    if read is None and count != len(ids):
        return f"read {count} ids in place of {len(ids)}"
    said = choice.get("token_ids") is not None or choice["text"]
    # llama.cpp says nothing of a sample that stopped at its first id.
    if not said and usage.get("completion_tokens", 2) > 1:
        return "gives neither the ids of its samples nor their log-probabilities"
    return None


def _bytes(token: Mapping[str, Any]) -> bytes:
    given = token.get("bytes")
    return str(token["token"]).encode() if given is None else bytes(given)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
