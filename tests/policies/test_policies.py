"""Policies: segments are what was sampled, priors are exact, prompts and limits are kept."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from rftt import (
    Extension,
    Grammar,
    Problem,
    PromptedPolicy,
    Reply,
    State,
    TabularPolicy,
    TransformersSampler,
)  # fmt: skip
from tests.chi_squared import assert_drawn_from
from tests.models import functional_policy, tiny_model, tokenizer

PROBLEM = Problem("p", "12+34", "46")


def _forward(model: torch.nn.Module, ids: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([ids])).logits[0].double()
    return logits


def test_the_prior_is_the_next_token_distribution_over_legal_openers() -> None:
    policy = functional_policy()
    (chain,) = policy.extend(
        [Extension(State(PROBLEM), 0, function="next_step", until="step", max_tokens=9)]
    )
    for state in (State(PROBLEM), State(PROBLEM, tuple(chain))):
        if chain[0].is_cut and state.steps:
            continue
        (prior,) = policy.prior([state])
        legal = policy.grammar.legal(state.last)
        logits = _forward(policy.sampler.model, policy.context(state))[-1]  # type: ignore[attr-defined]
        expected = logits[[policy.tokens.openers[name] for name in legal]].log_softmax(0)
        assert tuple(prior) == legal
        torch.testing.assert_close(
            torch.tensor(list(prior.values())).double(), expected, atol=1e-5, rtol=0
        )


def test_openers_come_as_often_as_the_prior_says() -> None:
    policy = functional_policy()
    state = State(PROBLEM)
    (prior,) = policy.prior([state])
    chains = policy.extend([Extension(state, seed, until="step", max_tokens=1) for seed in range(5_000)])
    counts = Counter(chain[0].function for chain in chains)
    assert set(counts) <= set(prior)
    assert_drawn_from([math.exp(p) for p in prior.values()], [counts[name] for name in prior])


def test_functional_chains_obey_grammar_limits_and_carry_exact_log_probs() -> None:
    policy = functional_policy()
    requests = [
        Extension(State(PROBLEM), seed, function=function, max_tokens=4 + seed, max_steps=3)
        for seed in range(30)
        for function in (None, "analysis")
    ]
    for request, chain in zip(requests, policy.extend(requests), strict=True):
        assert 1 <= len(chain) <= 3
        ids = policy.context(request.state) + tuple(i for s in chain for i in s.ids)
        assert len(ids) - len(policy.context(request.state)) <= request.max_tokens
        assert policy.grammar.violation([s.function for s in chain]) is None
        assert all(not segment.is_final for segment in chain[:-1])
        chosen = [flag for segment in chain for flag in segment.chosen]
        assert chosen == [request.function is None] + [True] * (len(chosen) - 1)
        state = policy.automaton.between[None]
        logits = _forward(policy.sampler.model, ids)  # type: ignore[attr-defined]
        place = len(policy.context(request.state)) - 1
        for segment in chain:
            for token, log_prob, was_chosen in zip(
                segment.ids, segment.log_probs, segment.chosen, strict=True
            ):
                row = logits[place].masked_fill(~policy.automaton.allowed[state], -math.inf)
                expected = float(row.log_softmax(0)[token]) if was_chosen else 0.0
                assert log_prob == pytest.approx(expected, abs=1e-4)
                state = int(policy.automaton.following[state, token])
                place += 1


def test_a_step_that_a_limit_cut_is_final_and_says_so() -> None:
    policy = functional_policy()
    (chain,) = policy.extend([Extension(State(PROBLEM), 1, function="next_step", max_tokens=2)])
    assert chain[-1].is_final == chain[-1].is_cut
    assert len(chain[-1].ids) == 2


def test_steps_and_answers_mix_in_one_call() -> None:
    policy = functional_policy()
    mixed = [
        Extension(State(PROBLEM), seed, until=until, max_tokens=40)
        for seed in range(6)
        for until in ("step", "answer")
    ]
    together = policy.extend(mixed)
    alone = [policy.extend([request])[0] for request in mixed]
    assert [[s.ids for s in chain] for chain in together] == [[s.ids for s in chain] for chain in alone]
    assert all(len(chain) == 1 for chain in together[::2])


def test_a_prefix_is_forced_and_not_counted_as_chosen() -> None:
    policy = functional_policy()
    (chain,) = policy.extend(
        [Extension(State(PROBLEM), 0, function="next_step", prefix=(7, 8), until="step", max_tokens=6)]
    )
    assert chain[0].ids[:3] == (policy.tokens.openers["next_step"], 7, 8)
    assert chain[0].chosen[:4] == (False, False, False, True)
    with pytest.raises(ValueError, match="name the function"):
        policy.extend([Extension(State(PROBLEM), 0, prefix=(7,))])


def _prompted(functions: tuple[str, ...] | None = None) -> PromptedPolicy:
    words = tokenizer()
    return PromptedPolicy(
        TransformersSampler(tiny_model(), words), words, Grammar.default(), functions=functions
    )


def test_prompted_context_is_prompts_and_bodies_as_sampled() -> None:
    policy = _prompted()
    (chain,) = policy.extend([Extension(State(PROBLEM), 3, max_steps=3, max_tokens=60)])
    text = policy.tokenizer.decode(policy.context(State(PROBLEM, tuple(chain))))
    expected = "12+34\n" + "".join(
        f"{policy.grammar.functions[s.function].description}:{policy.tokenizer.decode(s.ids)}"
        for s in chain
    )
    assert text == expected
    assert policy.grammar.violation([s.function for s in chain]) is None


def test_prompted_prior_is_uniform_over_the_functions_in_use() -> None:
    policy = _prompted(("analysis", "next_step"))
    assert policy.prior([State(PROBLEM)]) == [
        {"analysis": pytest.approx(math.log(0.5)), "next_step": pytest.approx(math.log(0.5))}
    ]


def test_unknown_functions_are_named() -> None:
    with pytest.raises(ValueError, match=r"\['fly'\] are not in the grammar"):
        _prompted(("fly",))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "no entry for"),
        ({(): [Reply("next_step", "a", 0.5)]}, "do not sum to 1"),
        ({(): [Reply("output", "a", 1.0)]}, "breaks the grammar"),
    ],
)
def test_bad_tables_say_what_is_wrong(table: dict[tuple[str, ...], list[Reply]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TabularPolicy(Grammar.default(), table)
