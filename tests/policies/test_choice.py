"""A prompted policy whose model chooses the next function, by how it would begin the next prompt."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from rftt import GenerationRequest, Grammar, Problem, PromptedPolicy, State, TransformersSampler
from rftt.samplers.openai import ServerSampler
from rftt.samplers.plain import PlainSampler
from rftt.testing import check_policy
from tests.chi_squared import assert_drawn_from
from tests.models import tiny_model, tokenizer

PROBLEM = Problem("p", "12+34", "46")


def _policy(kind: Any = TransformersSampler, **settings: Any) -> PromptedPolicy:
    words = tokenizer()
    sampling = {k: settings.pop(k) for k in ("temperature",) if k in settings}
    sampler = kind(tiny_model(), words, **sampling)
    return PromptedPolicy(sampler, words, Grammar.default(), **{"choice": "model"} | settings)


def test_the_prior_is_of_the_first_ids_of_the_legal_prompts() -> None:
    policy = _policy()
    (completion,) = policy.extend(
        [GenerationRequest(State(PROBLEM), 5, function="analysis", max_tokens=9, max_steps=1)]
    )
    for steps in ((), tuple(completion)):
        state = State(PROBLEM, steps)
        legal = policy.grammar.legal(state.last)
        ids = torch.tensor([policy.context(state)])
        with torch.no_grad():
            logits = policy.sampler.model(ids).logits[0, -1].double()  # type: ignore[attr-defined]
        first = [policy.tokenizer.encode(policy.prompts[name])[0] for name in legal]
        (prior,) = policy.prior([state])
        assert tuple(prior) == legal
        found = torch.tensor(list(prior.values())).double()
        torch.testing.assert_close(found, logits[first].log_softmax(0), atol=1e-5, rtol=0)


def test_functions_come_as_often_as_the_prior_says() -> None:
    policy = _policy()
    state = State(PROBLEM)
    (prior,) = policy.prior([state])
    requests = [GenerationRequest(state, seed, until="step", max_tokens=1) for seed in range(2_000)]
    counts = Counter(steps[0].function for steps in policy.extend(requests))
    assert set(counts) <= set(prior)
    assert_drawn_from([math.exp(p) for p in prior.values()], [counts[name] for name in prior])


def test_at_temperature_0_the_likeliest_comes() -> None:
    policy = _policy(temperature=0.0)
    (prior,) = policy.prior([State(PROBLEM)])
    for seed in range(3):
        ((step,),) = policy.extend([GenerationRequest(State(PROBLEM), seed, until="step", max_tokens=3)])
        assert step.function == max(prior, key=lambda name: prior[name])


def test_bodies_are_drawn_as_where_functions_are_uniform() -> None:
    """Ids that stand for functions in a choice are like others in a body."""
    requests = [
        GenerationRequest(State(PROBLEM), seed, function="analysis", until="step", max_tokens=30)
        for seed in range(8)
    ]
    found, uniform = (_policy(choice=choice).extend(requests) for choice in ("model", "uniform"))
    assert [steps[0].ids for steps in found] == [steps[0].ids for steps in uniform]
    for (step,), (other,) in zip(found, uniform, strict=True):
        assert step.log_probs == pytest.approx(other.log_probs, abs=1e-5)


@pytest.mark.parametrize("kind", [TransformersSampler, PlainSampler])
def test_it_keeps_every_promise(kind: type[Any]) -> None:
    report = check_policy(_policy(kind), problems=[Problem("p", "12+34*2")], max_tokens=16, draws=200)
    assert report.untried == {}


def test_only_functions_in_use_are_chosen_and_one_alone_always_is() -> None:
    policy = _policy(functions=["next_step", "direct_answer"])
    assert policy.prior([State(PROBLEM)]) == [{"next_step": 0.0}]
    requests = [GenerationRequest(State(PROBLEM), seed, max_tokens=60) for seed in range(20)]
    names = {step.function for steps in policy.extend(requests) for step in steps}
    assert names == {"next_step", "direct_answer"}


@pytest.mark.parametrize("choice", ["model", "uniform"])
def test_the_prior_is_empty_where_no_function_in_use_may_follow(choice: str) -> None:
    policy = _policy(functions=["analysis"], choice=choice)
    ((step,),) = policy.extend([GenerationRequest(State(PROBLEM), 0, until="step", max_tokens=9)])
    ended = State(PROBLEM, (step,))
    assert policy.prior([ended, State(PROBLEM), ended]) == [{}, {"analysis": 0.0}, {}]


def test_a_choice_that_the_context_has_no_room_for_ends_the_request() -> None:
    policy = _policy()
    length = policy.sampler.max_length
    assert length is not None
    long = Problem("long", "+".join(["1"] * length), "0")
    ((step,), _) = policy.extend(
        [GenerationRequest(State(p), 0, max_steps=1, max_tokens=4) for p in (long, PROBLEM)]
    )
    assert (step.truncated, step.terminal, step.ids) == (True, True, ())


def test_what_cannot_choose_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'clarify' and 'analysis' begin with the same id"):
        _policy(prompts={"clarify": "plan now:"})
    with pytest.raises(ValueError, match="the prompt of 'analysis' is empty"):
        _policy(prompts={"analysis": ""})
    with pytest.raises(ValueError, match="choice must be one of uniform, model, not 'best'"):
        _policy(choice="best")
    words = tokenizer()
    server = ServerSampler("http://localhost:9/v1", "m", words, max_length=100)
    policy = PromptedPolicy(server, words, Grammar.default(), choice="model")
    with pytest.raises(ValueError, match="a server cannot choose among a few ids"):
        policy.extend([GenerationRequest(State(PROBLEM), 0, max_tokens=4)])


def test_the_choice_is_in_the_fingerprint() -> None:
    found, uniform = (_policy(choice=choice).__fingerprint__() for choice in ("model", "uniform"))
    assert (found["choice"], uniform["choice"]) == ("model", "uniform")
