"""Policies: steps are what was sampled, priors are exact, prompts and limits are kept."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from rftt import (
    BestOfN,
    Budget,
    FunctionalPolicy,
    GenerationRequest,
    Grammar,
    MathVerifier,
    Problem,
    PromptedPolicy,
    SamplingParams,
    SearchConfig,
    State,
    Step,
    TransformersSampler,
    run_search,
)  # fmt: skip
from rftt.fingerprint import difference, fingerprint
from rftt.policies.chat import chat_question
from rftt.policies.sampled import SampledPolicy
from rftt.problems.problem import question_line
from rftt.testing.finite.tabular import Reply, TabularPolicy
from tests.chi_squared import assert_drawn_from
from tests.families import family_tokenizer
from tests.models import functional_policy, tiny_model, tokenizer

PROBLEM = Problem("p", "12+34", "46")


def _forward(model: torch.nn.Module, ids: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([ids])).logits[0].double()
    return logits


def test_the_prior_is_the_next_token_distribution_over_legal_openers() -> None:
    policy = functional_policy()
    (completion,) = policy.extend(
        [GenerationRequest(State(PROBLEM), 5, function="next_step", max_tokens=200, max_steps=2)]
    )
    states = [State(PROBLEM, tuple(completion[:n])) for n in (0, 1)]
    assert not completion[0].truncated
    for state, prior in zip(states, policy.prior(states), strict=True):
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
    requests = [GenerationRequest(state, seed, until="step", max_tokens=1) for seed in range(5_000)]
    counts = Counter(steps[0].function for steps in policy.extend(requests))
    assert set(counts) <= set(prior)
    assert_drawn_from([math.exp(p) for p in prior.values()], [counts[name] for name in prior])


def test_functional_completions_obey_grammar_limits_and_carry_exact_log_probs() -> None:
    policy = functional_policy()
    requests = [
        GenerationRequest(State(PROBLEM), seed, function=function, max_tokens=4 + seed, max_steps=3)
        for seed in range(30)
        for function in (None, "analysis")
    ]
    for request, completion in zip(requests, policy.extend(requests), strict=True):
        assert 1 <= len(completion) <= 3
        assert policy.grammar.violation([step.function for step in completion]) is None
        assert all(not step.terminal for step in completion[:-1])
        action_mask = [flag for step in completion for flag in step.action_mask]
        assert sum(action_mask) <= request.max_tokens
        assert action_mask == [request.function is None] + [True] * (len(action_mask) - 1)
        context = policy.context(request.state)
        ids = context + tuple(i for step in completion for i in step.ids)
        logits = _forward(policy.sampler.model, ids)[len(context) - 1 :]  # type: ignore[attr-defined]
        state = torch.tensor([policy.automaton.between[None]])
        rows = iter(logits)
        for step in completion:
            for token, log_prob, sampled in zip(step.ids, step.log_probs, step.action_mask, strict=True):
                row = next(rows).masked_fill(~policy.automaton.mask(state)[0], -math.inf)
                expected = float(row.log_softmax(0)[token]) if sampled else 0.0
                assert log_prob == pytest.approx(expected, abs=1e-4)
                state = policy.automaton.next_states(state, torch.tensor([token]))


def test_a_step_that_a_limit_cut_is_terminal_and_says_so() -> None:
    policy = functional_policy()
    (completion,) = policy.extend(
        [GenerationRequest(State(PROBLEM), 1, function="next_step", max_tokens=2)]
    )
    assert completion[-1].truncated
    assert completion[-1].terminal


@pytest.mark.parametrize("kind", ["functional", "prompted"])
def test_forced_ids_do_not_count_against_the_limit(kind: str) -> None:
    """Six forced ids once left nothing of a limit of five, which was an error."""
    policy = functional_policy() if kind == "functional" else _prompted()
    prefix = (7, 8, 9, 7, 8)
    request = GenerationRequest(
        State(PROBLEM), 0, function="next_step", prefix=prefix, until="step", max_tokens=5
    )
    ((step,),) = policy.extend([request])
    start = step.body_start
    assert step.ids[start : start + 5] == prefix
    assert step.action_mask[: start + 5] == (False,) * (start + 5)
    assert step.log_probs[: start + 5] == (0.0,) * (start + 5)
    assert step.action_mask[start + 5 :] == (True,) * len(step.ids[start + 5 :])
    assert sum(step.action_mask) == 5 or not step.truncated


def test_steps_and_solutions_mix_in_one_call() -> None:
    policy = functional_policy()
    mixed = [
        GenerationRequest(State(PROBLEM), seed, until=until, max_tokens=40)
        for seed in range(6)
        for until in ("step", "solution")
    ]
    together = policy.extend(mixed)
    alone = [policy.extend([request])[0] for request in mixed]
    assert [[s.ids for s in steps] for steps in together] == [[s.ids for s in steps] for steps in alone]
    assert all(len(steps) == 1 for steps in together[::2])
    assert [steps[0].ids for steps in together[::2]] == [steps[0].ids for steps in together[1::2]]


def test_a_prefix_is_the_start_of_a_named_functions_body() -> None:
    policy = functional_policy()
    with pytest.raises(ValueError, match="name the function"):
        policy.extend([GenerationRequest(State(PROBLEM), 0, prefix=(7,))])
    forged = (7, policy.tokens.closers["next_step"])
    with pytest.raises(ValueError, match="body holds the functional token"):
        policy.extend([GenerationRequest(State(PROBLEM), 0, function="next_step", prefix=forged)])


def _prompted(functions: tuple[str, ...] | None = None, **settings: float) -> PromptedPolicy:
    words = tokenizer()
    sampler = TransformersSampler(tiny_model(), words, **settings)
    return PromptedPolicy(sampler, words, Grammar.default(), functions=functions)


def test_prompted_context_is_prompts_and_bodies_as_sampled() -> None:
    policy = _prompted()
    (completion,) = policy.extend([GenerationRequest(State(PROBLEM), 3, max_steps=3, max_tokens=60)])
    text = policy.tokenizer.decode(policy.context(State(PROBLEM, tuple(completion))))
    # Not an end of text, after which a model expects another turn.
    expected = "12+34\n" + "".join(
        f"{policy.grammar.functions[s.function].description}:{policy.tokenizer.decode(s.ids)}"
        for s in completion
    ).replace("<eos>", "\n")
    assert text == expected
    assert policy.grammar.violation([s.function for s in completion]) is None


def test_prompted_completions_keep_to_the_limits() -> None:
    policy = _prompted()
    requests = [
        GenerationRequest(State(PROBLEM), seed, max_tokens=1 + seed, max_steps=1 + seed % 4)
        for seed in range(40)
    ]
    completions = policy.extend(requests)
    for request, completion in zip(requests, completions, strict=True):
        assert 1 <= len(completion) <= request.max_steps
        assert sum(len(step.ids) for step in completion) <= request.max_tokens
        assert all(not step.terminal for step in completion[:-1])
    assert any(len(completion) > 2 for completion in completions)


def test_a_body_is_a_step_without_what_stopped_it() -> None:
    policy = _prompted()
    requests = [GenerationRequest(State(PROBLEM), seed, max_tokens=40) for seed in range(8)]
    steps = [step for completion in policy.extend(requests) for step in completion]
    assert {step.truncated for step in steps} == {False, True}
    for step in steps:
        assert policy.body(step) == (step.ids if step.truncated else step.ids[:-1])
        text = policy.tokenizer.decode(policy.body(step), skip_special_tokens=True)
        assert text.strip() == step.text


def test_a_hint_comes_before_the_prompt_and_is_not_kept() -> None:
    policy = _prompted()
    states, hints = [State(PROBLEM)] * 3, ["It is 46.\n", "It is 46.\n", ""]
    steps = policy.ask(states, "verify", hints=hints, seeds=[0, 0, 0], max_tokens=20)
    assert [step.function for step in steps] == ["verify"] * 3
    assert steps[0] == steps[1] != steps[2]
    context = policy.tokenizer.decode(policy.context(State(PROBLEM, (steps[0],))))
    assert "It is 46." not in context


def test_prompted_prior_is_uniform_over_the_functions_in_use() -> None:
    policy = _prompted(("analysis", "next_step"))
    assert policy.prior([State(PROBLEM)]) == [
        {"analysis": pytest.approx(math.log(0.5)), "next_step": pytest.approx(math.log(0.5))}
    ]


def test_unknown_functions_are_named() -> None:
    with pytest.raises(ValueError, match=r"functions: \['fly'\] are not in the grammar"):
        _prompted(("fly",))
    words = tokenizer()
    sampler = TransformersSampler(tiny_model(), words)
    with pytest.raises(ValueError, match=r"prompts: \['fly'\] are not in the grammar"):
        PromptedPolicy(sampler, words, Grammar.default(), prompts={"fly": "Fly!"})


@pytest.mark.parametrize("kind", ["functional", "prompted"])
def test_learners_read_temperature_and_masks_from_the_policy(kind: str) -> None:
    policy = functional_policy(temperature=0.7) if kind == "functional" else _prompted(temperature=0.7)
    assert isinstance(policy, SampledPolicy)
    assert policy.sampling_params == SamplingParams(0.7)
    state = torch.tensor([policy.automaton.between[None]])
    mask = policy.automaton.mask(state)
    assert mask.shape == (1, policy.sampler.vocab_size)
    requests = [GenerationRequest(State(PROBLEM), seed, max_tokens=1) for seed in range(99)]
    drawn = {steps[0].ids[0] for steps in policy.extend(requests)}
    assert mask[0, list(drawn)].all()
    assert kind == "prompted" or len(drawn) <= int(mask.sum()) == len(policy.grammar.legal(None))
    # It is the sampler's own, also once the policy has another.
    policy.sampler = _prompted(temperature=0.3).sampler
    assert policy.sampling_params.temperature == 0.3


class _Watched(FunctionalPolicy):
    """A user's wrapper round ``extend``."""

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        self.batches = [*getattr(self, "batches", []), len(requests)]
        return super().extend(requests)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_search_goes_through_an_extend_that_is_overridden(streaming: bool) -> None:
    plain = functional_policy()
    watched = _Watched(plain.sampler, plain.tokenizer, plain.tokens)
    config = SearchConfig(Budget(rollouts=3), max_tokens=30, streaming=streaming)
    problems = [Problem(str(n), f"{n}+{n}") for n in range(4)]
    found = [
        [tree.step for tree in run_search(problems, BestOfN(), policy, MathVerifier(), config)]
        for policy in (plain, watched)
    ]
    assert found[0] == found[1]
    assert sum(watched.batches) == 12


def test_a_stream_goes_through_an_extend_that_was_replaced_on_the_instance() -> None:
    policy = functional_policy()
    calls = []
    own = policy.extend

    def extend(requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        calls.append(len(requests))
        return own(requests)

    policy.extend = extend  # type: ignore[method-assign]
    stream = policy.stream()
    for key in range(3):
        stream.add(key, GenerationRequest(State(PROBLEM), key, max_tokens=9))
    assert sorted(key for key, _ in stream.collect()) == [0, 1, 2]
    assert calls == [3]


def test_a_stream_returns_what_is_finished_before_the_rest() -> None:
    policy = functional_policy()
    stream = policy.stream()
    requests = [GenerationRequest(State(PROBLEM), 0, max_tokens=most) for most in (40, 1)]
    for key, request in enumerate(requests):
        stream.add(key, request)
    ((first, steps),) = stream.collect()
    assert first == 1
    stream.add(2, GenerationRequest(State(PROBLEM), 1, max_tokens=2))
    found = {first: steps}
    while finished := stream.collect():
        found |= dict(finished)
    expected = policy.extend(requests)
    for key in (0, 1):
        assert [step.ids for step in found[key]] == [step.ids for step in expected[key]]
    assert len(found) == 3


def test_equal_policies_have_equal_fingerprints() -> None:
    for make in (functional_policy, _prompted):
        first, second = make(), make()
        first.extend([GenerationRequest(State(PROBLEM), 3, max_tokens=9)])
        assert fingerprint(first) == fingerprint(second)


def test_what_matters_is_in_a_policys_fingerprint() -> None:
    words = tokenizer()
    sampler = TransformersSampler(tiny_model(), words)

    def prompted(**settings: object) -> object:
        arguments = {"sampler": sampler, "tokenizer": words, "grammar": Grammar.default()} | settings
        return fingerprint(PromptedPolicy(**arguments))  # type: ignore[arg-type]

    plain = prompted()
    for settings, place in [
        ({"functions": ["next_step"]}, "functions"),
        ({"prompts": {"next_step": "Go on:"}}, "prompts"),
        ({"openings": {"output": "so "}}, "openings"),
        ({"question": lambda problem: f"Q: {problem.question}\n"}, "question"),
        ({"stop": "+"}, "stop_ids"),
        ({"sampler": TransformersSampler(tiny_model(seed=1), words)}, "sampler"),
        ({"sampler": TransformersSampler(tiny_model(), words, temperature=0.5)}, "sampler"),
    ]:
        found = difference(plain, prompted(**settings))
        assert found is not None, settings
        assert found.startswith(place)
    policy = functional_policy()
    other = functional_policy(seed=1)
    question = FunctionalPolicy(
        policy.sampler, policy.tokenizer, policy.tokens, question=lambda problem: problem.question
    )
    assert fingerprint(policy) != fingerprint(other)
    assert difference(fingerprint(policy), fingerprint(question)) is not None


def test_a_chat_template_is_told_apart_by_its_text() -> None:
    """``chat_question`` returns a local function, which has no name that could be compared."""
    words = tokenizer()
    words.chat_template = family_tokenizer("qwen2").chat_template

    def described(system: str | None) -> object:
        question = chat_question(words, system=system)
        sampler = TransformersSampler(tiny_model(), words)
        return fingerprint(PromptedPolicy(sampler, words, Grammar.default(), question=question))

    assert described("Think.") == described("Think.")
    assert described("Think.") != described("Guess.") != described(None)


def test_a_question_that_fails_for_a_problem_is_refused_by_name() -> None:
    words = tokenizer()
    texts = {PROBLEM.id: question_line(PROBLEM)}
    policy = PromptedPolicy(
        TransformersSampler(tiny_model(), words), words, Grammar.default(),
        question=lambda problem: texts[problem.id],
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"question: it failed .* KeyError"):
        fingerprint(policy)


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
