"""What ends a sample of a prompted policy: the ids of its stop text, and ends of text."""

from __future__ import annotations

import pytest
import torch

from rftt import (
    GenerationRequest,
    Grammar,
    Problem,
    PromptedPolicy,
    State,
    Step,
)
from rftt.samplers.plain import PlainSampler
from rftt.samplers.stops import Stops
from rftt.tokens.control import control_ids
from tests.families import family_model, family_tokenizer

WORDS = family_tokenizer("qwen2")
"""Its control ids are named ``<|im_start|>`` and the like."""


def _policy(stop: str) -> PromptedPolicy:
    sampler = PlainSampler(family_model("qwen2", len(WORDS)), WORDS)
    return PromptedPolicy(sampler, WORDS, Grammar.default(), stop=stop)


def _closing(policy: PromptedPolicy) -> set[int]:
    return set(policy.automaton.special_ids[policy.automaton.closing].tolist())


@pytest.mark.parametrize("stop", [">", "|", "t"])
def test_a_control_id_whose_name_holds_the_stop_text_does_not_end_a_body(stop: str) -> None:
    """Its mask allowed such an id, so a body could open a turn."""
    policy = _policy(stop)
    turn = WORDS.convert_tokens_to_ids("<|im_start|>")
    closing = _closing(policy)
    assert closing & control_ids(WORDS) == {WORDS.eos_token_id}
    assert any(stop in WORDS.decode([i]) for i in closing - {WORDS.eos_token_id})
    states = torch.tensor([policy.automaton.between[None]])
    assert not policy.automaton.mask(states)[0, turn]
    assert turn in Stops.of(policy.automaton, WORDS).control
    forced = GenerationRequest(State(Problem("p", "1+1"), ()), 0, function="analysis", prefix=(turn,))
    with pytest.raises(ValueError, match=f"no body holds the control token {turn}"):
        policy.extend([forced])


def test_an_end_of_text_whose_name_holds_the_stop_text_is_not_in_the_context() -> None:
    """What followed ``<|endoftext|>`` was another document."""
    policy = _policy(">")
    (body,) = WORDS.encode("7", add_special_tokens=False)
    (mark,) = WORDS.encode(">", add_special_tokens=False)
    step = Step("analysis", "7", (body, WORDS.eos_token_id), (-1.0, -1.0), (True, True), False)
    context = policy.context(State(Problem("p", "1+1"), (step,)))
    assert context[-2:] == (body, mark)


def test_a_stop_text_that_only_control_ids_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no id .* contains '<\|'"):
        _policy("<|")


def test_a_control_id_that_is_the_stop_text_ends_a_body() -> None:
    turn = WORDS.convert_tokens_to_ids("<|im_end|>")
    assert _closing(_policy("<|im_end|>")) == {turn, WORDS.eos_token_id}
