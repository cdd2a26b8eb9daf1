"""A server that has chat completions alone continues the prompt, or is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from rftt import (
    BestOfN,
    Budget,
    Grammar,
    MathVerifier,
    Problem,
    PromptedPolicy,
    SearchConfig,
    SearchTree,
    run_search,
)
from rftt.fingerprint import fingerprint
from rftt.policies.chat import chat_prompts, chat_question
from rftt.samplers.chat_completions import ChatTemplate
from rftt.samplers.openai import ServerSampler
from rftt.samplers.plain import PlainSampler
from rftt.samplers.sampler import Sampler, SampleRequest
from rftt.samplers.stops import Stops
from rftt.tokens.automaton import stop_automaton
from tests.families import family_model, family_tokenizer

FAMILIES = ("qwen2", "llama", "gemma", "phi")
EXAMPLES = [("1+1?", "The sum: 2\n"), ("2*3?", "The product: 6\nSo \\boxed{6}\n")]
PROBLEMS = [Problem("a", "Compute 12 + 7", "19"), Problem("b", "7 * 3", "21")]


class _Chat(ServerSampler):
    """A server of a model, without the network between.

    Args:
        family: the model's.
        form: what is said of samples: as vLLM, as llama.cpp, as others, or nothing.
        ignores: whether the last turn is ended and another begun.
    """

    def __init__(
        self, family: str, form: str = "vllm", *, ignores: bool = False, **settings: Any
    ) -> None:
        words = family_tokenizer(family)
        super().__init__(
            "http://chat/v1", family, words, endpoint="chat", max_length=512, retries=0, **settings
        )
        self.model_here = PlainSampler(family_model(family, len(words)), words, temperature=0.0)
        self.form, self.ignores = form, ignores
        self.bodies: list[Mapping[str, Any]] = []

    def post(self, body: Mapping[str, Any]) -> Any:
        self.bodies.append(body)
        words, turns = self.tokenizer, body["messages"]
        goes_on = body["continue_final_message"] and not self.ignores
        text = words.apply_chat_template(
            turns[:-1] if goes_on else turns, tokenize=False, add_generation_prompt=True
        )
        said = turns[-1]["content"] if goes_on else ""
        prompt = words.encode(text + said, add_special_tokens=False)
        banned = set(map(int, body["logit_bias"]))
        ids = {i for i in range(len(words)) if any(s in words.decode([i]) for s in body.get("stop", ()))}
        ends = {*ids, words.eos_token_id} - banned
        automaton = stop_automaton(ends, len(words), len(words), banned=banned)
        request = SampleRequest(tuple(prompt), 0, automaton.between[None], body["max_tokens"])
        (sample,) = self.model_here.sample([request], automaton)
        stopped = sample.ids[-1] in automaton.special_ids
        tokens = [
            {"token": words.decode([i]), "bytes": [*words.decode([i]).encode()], "logprob": log_prob}
            | ({"id": i} if self.form == "llama.cpp" else {})
            for i, log_prob in zip(sample.ids, sample.log_probs, strict=True)
        ][: len(sample.ids) - stopped]
        choice: dict[str, Any] = {
            "message": {"role": "assistant", "content": said + words.decode(sample.ids)},
            "finish_reason": "stop" if stopped else "length",
            "logprobs": {"content": tokens} if tokens and self.form != "mute" else None,
        }
        reply = {"choices": [choice]}
        if self.form == "vllm":
            choice["token_ids"] = sample.ids
            return reply | {"prompt_token_ids": prompt}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(sample.ids)}
        return reply if self.form == "uncounted" else reply | {"usage": usage}


def _search(sampler: Sampler, family: str, **question: Any) -> list[SearchTree]:
    words, grammar = family_tokenizer(family), Grammar.default()
    policy = PromptedPolicy(
        sampler, words, grammar, prompts=chat_prompts(grammar), question=chat_question(words, **question)
    )
    config = SearchConfig(Budget(rollouts=2), seed=1, max_depth=4, max_tokens=12)
    return run_search(PROBLEMS, BestOfN(), policy, MathVerifier(), config)


def _steps(trees: Sequence[SearchTree]) -> list[object]:
    return [(tree.parent, [s and (s.function, s.ids) for s in tree.step]) for tree in trees]


@pytest.mark.parametrize("form", ["vllm", "llama.cpp"])
def test_greedy_searches_are_those_of_the_model_asked_by_ids(form: str) -> None:
    """Those of ids that the tokenizer would have cut the text into; others are read in other pieces."""
    chat = _Chat("phi", form, temperature=0.0)
    there, here = _search(chat, "phi"), _search(chat.model_here, "phi")
    first = [[tree.step[child] for child in tree.children[0]] for tree in there]
    assert first == [[tree.step[child] for child in tree.children[0]] for tree in here]
    assert all(body["messages"][0]["role"] == "user" for body in chat.bodies)
    assert {len(body["messages"]) for body in chat.bodies} == {2}
    assert not any("prompt" in body for body in chat.bodies)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("system", [None, "Think aloud."])
@pytest.mark.parametrize("examples", [[], EXAMPLES])
def test_a_prompt_is_split_into_the_turns_that_it_was_made_of(
    family: str, system: str | None, examples: list[tuple[str, str]]
) -> None:
    words = family_tokenizer(family)
    question = chat_question(words, system=system, examples=examples)
    for said in ("", " The plan:", " The plan: first add.\n Next step:"):
        text = question(PROBLEMS[0]) + said
        prompt = tuple(words.encode(text, add_special_tokens=False))
        turns, ids = ChatTemplate(words).turns(prompt)
        assert ids == prompt
        roles = [turn["role"] for turn in turns]
        expected = ["user", "assistant"] * len(examples) + ["user"] + ["assistant"] * bool(said)
        assert roles == ["system"] * (system is not None) + expected
        contents = [content for pair in examples for content in pair]
        begin = int(system is not None)
        assert [turn["content"] for turn in turns][begin : begin + len(contents)] == contents
        assert not said or turns[-1]["content"] == said


def test_a_prompt_that_is_not_of_the_template_is_refused() -> None:
    words = family_tokenizer("qwen2")
    template = ChatTemplate(words)
    for text in ("Compute 1+1\nPlan:", "<|im_start|>user\nCompute 1+1<|im_end|>\n"):
        with pytest.raises(ValueError, match=r"question=chat_question"):
            template.turns(tuple(words.encode(text, add_special_tokens=False)))
    words.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        ChatTemplate(words)


def _sample(sampler: ServerSampler, text: str = " The plan:", **request: Any) -> Any:
    words = sampler.tokenizer
    prompt = words.encode(chat_question(words)(PROBLEMS[0]) + text, add_special_tokens=False)
    stop = words.encode("\n", add_special_tokens=False)
    automaton = stop_automaton(stop, len(words), len(words))
    asked = {"prompt": tuple(prompt), "max_tokens": 6} | request
    return sampler.complete(
        SampleRequest(seed=0, state=automaton.between[None], **asked), Stops.of(automaton, words)
    )


@pytest.mark.parametrize(
    ("form", "ignores", "said"),
    [
        ("vllm", True, r"read other ids than the \d+ of the prompt"),
        ("llama.cpp", True, r"read \d+ ids in place of \d+"),
        ("uncounted", False, "does not say how many ids it read"),
        ("mute", False, "neither the ids of its samples nor their log-probabilities"),
    ],
)
def test_a_server_that_does_not_go_on_or_does_not_say_so_is_refused(
    form: str, ignores: bool, said: str
) -> None:
    """A server that begins another turn gave samples of another prompt, and nothing told."""
    sampler = _Chat("qwen2", form, ignores=ignores)
    with pytest.raises(RuntimeError, match=f"{said}: serve the model with /completions"):
        _sample(sampler)
    assert len(sampler.bodies) == 1


def test_samples_hold_what_was_drawn_and_not_what_the_turn_held_before() -> None:
    """llama.cpp begins the turn with what it was given of it."""
    words = family_tokenizer("phi")
    # Bytes that are no characters have no text.
    bias = {str(i): -100 for i in range(len(words)) if not words.decode([i]).isascii()}
    forms = ("vllm", "llama.cpp", "text")
    vllm, llama, text = (_sample(_Chat("phi", form, fields={"logit_bias": bias})) for form in forms)
    assert vllm.ids == llama.ids
    assert vllm.log_probs == llama.log_probs
    assert words.decode(text.ids) == words.decode(vllm.ids) != ""


def test_what_follows_text_cut_into_other_pieces_has_no_log_probs() -> None:
    sampler = _Chat("qwen2")
    words = sampler.tokenizer
    whole = words.encode(chat_question(words)(PROBLEMS[0]) + " the", add_special_tokens=False)
    pieces = [*whole[:-1], *(words.encode(piece, add_special_tokens=False)[0] for piece in " the")]
    assert words.decode(pieces) == words.decode(whole)
    assert len(pieces) > len(whole)
    known, unknown = (_sample(sampler, prompt=tuple(ids)) for ids in (whole, pieces))
    assert known.ids == unknown.ids
    assert not any(map(math.isnan, known.log_probs))
    assert all(map(math.isnan, unknown.log_probs))


def test_the_settings_of_the_template_are_those_of_the_server() -> None:
    words = family_tokenizer("qwen2")
    words.chat_template += "{% if add_generation_prompt and calm %}<calm>{% endif %}"
    prompt = words.encode(chat_question(words, calm=True)(PROBLEMS[0]) + " Plan:")
    settings: dict[str, Any] = {"chat_template_kwargs": {"calm": True}}
    sampler = ServerSampler("http://chat/v1", "m", words, endpoint="chat", fields=settings)
    assert sampler.fields == settings
    turns, _ = ChatTemplate(words, calm=True).turns(tuple(prompt))
    assert turns[-1] == {"role": "assistant", "content": " Plan:"}


def test_a_search_by_chat_is_told_apart() -> None:
    words = family_tokenizer("qwen2")
    chat = ServerSampler("http://a/v1", "m", words, endpoint="chat")
    assert fingerprint(chat) != fingerprint(ServerSampler("http://a/v1", "m", words))
