"""One door for plain models, models with functional tokens and adapters."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from rftt import (
    FunctionalTokens,
    GenerationRequest,
    Grammar,
    Problem,
    PromptedPolicy,
    SamplingParams,
    State,
    TransformersSampler,
    load_policy,
)
from rftt.policies.loading import load_model
from rftt.samplers.openai import ServerSampler
from rftt.samplers.plain import PlainSampler
from rftt.tokens.embeddings import initialize_token_embeddings, trainable_token_indices
from tests.models import tiny_model, tokenizer


def _save_plain(folder: Path, tied: bool = True) -> None:
    tiny_model(tied=tied).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model folder .*nowhere does not exist"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        load_model(tmp_path)


def test_missing_tokens_are_named_with_what_to_do(tmp_path: Path) -> None:
    _save_plain(tmp_path)
    with pytest.raises(ValueError, match=r"no token for <clarify>.*add them.*prompted=True"):
        load_policy(tmp_path, device="cpu")


def test_any_model_can_be_prompted(tmp_path: Path) -> None:
    _save_plain(tmp_path)
    policy = load_policy(
        tmp_path, prompted=True, functions=["next_step"], temperature=0.5, top_p=0.9, device="cpu"
    )
    assert isinstance(policy, PromptedPolicy)
    assert policy.legal(None) == ("next_step",)
    assert isinstance(policy.sampler, TransformersSampler)
    assert policy.sampling_params == SamplingParams(0.5, 0.9)
    with pytest.raises(ValueError, match="pass prompted=True"):
        load_policy(tmp_path, functions=["next_step"])


def test_a_server_is_asked_by_its_name_for_the_model(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    policy = load_policy(
        "tiny", backend="server", prompted=True, url="http://nowhere/v1", tokenizer=tmp_path,
        temperature=0.5, retries=2,
    )  # fmt: skip
    assert isinstance(policy, PromptedPolicy)
    sampler = policy.sampler
    assert isinstance(sampler, ServerSampler)
    assert (sampler.url, sampler.model, sampler.retries) == ("http://nowhere/v1", "tiny", 2)
    assert (policy.sampling_params.temperature, sampler.tokenizer_size) == (0.5, len(tokenizer()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "sglang"}, "backend must be one of transformers, vllm, server, not 'sglang'"),
        ({"backend": "server"}, "cannot keep to a grammar of functional tokens: pass prompted=True"),
        ({"backend": "server", "prompted": True, "url": "http://nowhere/v1"}, "needs url=.*tokenizer="),
        ({"backend": "vllm", "device": "cpu"}, "device is for the backend transformers: vllm chooses"),
    ],
)
def test_what_a_backend_cannot_do_is_said(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_policy("tiny", **settings)


def test_the_tokens_are_looked_for_before_an_engine_starts(tmp_path: Path) -> None:
    _save_plain(tmp_path)
    with pytest.raises(ValueError, match=r"no token for <clarify>.*add them.*prompted=True"):
        load_policy(tmp_path, backend="vllm")
    with pytest.raises(FileNotFoundError, match=r"model folder .*nowhere does not exist"):
        load_policy(tmp_path / "nowhere", backend="vllm")


def test_a_family_that_the_fast_sampler_refuses_gets_the_plain_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Bloom computes attention by itself, with biases that transformers' own kinds do not have."""
    words = tokenizer()
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=len(words), hidden_size=32, n_layer=2, n_head=2)
    BloomForCausalLM(config).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="PlainSampler"):
        TransformersSampler(load_model(tmp_path)[0], words)
    policy = load_policy(tmp_path, prompted=True, temperature=0.5, batch_size=4, device="cpu")
    assert isinstance(policy.sampler, PlainSampler)
    assert policy.sampling_params.temperature == 0.5
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "rftt.policies.loading")
    assert "PlainSampler" in record.getMessage()
    requests = [GenerationRequest(State(Problem("p", "1+2")), seed, max_tokens=9) for seed in range(3)]
    assert all(policy.extend(requests))


def test_a_wrong_setting_is_not_taken_for_a_family_that_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _save_plain(tmp_path)
    with pytest.raises(ValueError, match="batch_size"):
        load_policy(tmp_path, prompted=True, batch_size=0, device="cpu")
    with pytest.raises(ValueError, match="temperature"):
        load_policy(tmp_path, prompted=True, temperature=-1.0, device="cpu")
    assert not caplog.records


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_it_is_said_how_to_install_it(tmp_path: Path) -> None:
    _save_plain(tmp_path)
    with pytest.raises(ImportError, match=r"pip install 'rftt\[vllm\]'"):
        load_policy(tmp_path, backend="vllm", prompted=True)


def _prior(
    model: torch.nn.Module, words: PreTrainedTokenizerBase, tokens: FunctionalTokens
) -> dict[str, float]:
    """By a plain forward pass."""
    question = words.encode("12+7\n", add_special_tokens=False)
    legal = tokens.grammar.legal(None)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([question])).logits[0, -1]
    log_probs = logits[[tokens.openers[name] for name in legal]].log_softmax(0)
    return dict(zip(legal, log_probs.tolist(), strict=True))


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_comes_back_in_another_process(tmp_path: Path, tied: bool) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    _save_plain(base, tied)
    model, words = load_model(base)
    tokens = FunctionalTokens.add(words, Grammar.default())
    initialize_token_embeddings(model, words, tokens)
    config = LoraConfig(
        r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM",
        trainable_token_indices=trainable_token_indices(model, tokens),
    )  # fmt: skip
    tuned = get_peft_model(model, config)
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=0.05)
    ids = torch.tensor([[3, tokens.openers["verify"], 5, 6, tokens.closers["verify"], 4]])
    for _ in range(3):
        optimizer.zero_grad()
        tuned(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    tuned.save_pretrained(adapter, save_embedding_layers=False)
    words.save_pretrained(adapter)
    mine = _prior(tuned, words, tokens)

    code = (
        "import json, sys; from rftt import Problem, State, load_policy; "
        "policy = load_policy(sys.argv[1], device='cpu'); "
        "print(json.dumps(policy.prior([State(Problem('p', '12+7'))])[0]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(adapter)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(mine, abs=1e-5)
    assert _prior(tuned.unload(), words, tokens) != pytest.approx(mine, abs=1e-3)


def _tuned(
    base: Path, *, rows: int | None = None, tied: bool = True
) -> tuple[Any, Any, FunctionalTokens]:
    """A saved base, and a model of it with the functional tokens in its tokenizer."""
    tiny_model(tied=tied, rows=rows).save_pretrained(base)
    tokenizer().save_pretrained(base)
    model, words = load_model(base)
    tokens = FunctionalTokens.add(words, Grammar.default())
    initialize_token_embeddings(model, words, tokens)
    return model, words, tokens


def _save_adapter(folder: Path, model: Any, words: Any, **settings: Any) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **settings)
    get_peft_model(model, config).save_pretrained(folder, save_embedding_layers=False)
    words.save_pretrained(folder)


@pytest.mark.parametrize("rows", [None, 80])
@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_that_lost_the_new_embeddings_is_refused(
    tmp_path: Path, rows: int | None, tied: bool
) -> None:
    """Over a padded vocabulary all shapes fit, and the tokens meant nothing, in silence."""
    model, words, tokens = _tuned(tmp_path / "base", rows=rows, tied=tied)
    _save_adapter(tmp_path / "lora", model, words)
    with pytest.raises(ValueError, match=r"16 tokens .* such as </?\w+>.*trainable_token_indices"):
        load_policy(tmp_path / "lora", device="cpu")
    model, words, tokens = _tuned(tmp_path / "base", rows=rows, tied=tied)
    indices = trainable_token_indices(model, tokens)
    _save_adapter(tmp_path / "rows", model, words, trainable_token_indices=indices)
    load_policy(tmp_path / "rows", device="cpu")
    if not tied:
        # The list form trains input embeddings alone.
        model, words, tokens = _tuned(tmp_path / "base", rows=rows, tied=tied)
        _save_adapter(tmp_path / "list", model, words, trainable_token_indices=list(tokens.ids))
        with pytest.raises(ValueError, match="neither it nor its base holds trained embeddings"):
            load_policy(tmp_path / "list", device="cpu")


def test_a_base_that_has_the_tokens_needs_none_of_an_adapter(tmp_path: Path) -> None:
    model, words, _ = _tuned(tmp_path / "plain")
    model.save_pretrained(tmp_path / "base")
    words.save_pretrained(tmp_path / "base")
    model, words = load_model(tmp_path / "base")
    _save_adapter(tmp_path / "lora", model, words)
    load_policy(tmp_path / "lora", device="cpu")


def _with_base(folder: Path, base: str | None) -> None:
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"base_model_name_or_path": base}))


def test_an_adapters_base_is_found_beside_it_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, words, tokens = _tuned(tmp_path / "base")
    indices = trainable_token_indices(model, tokens)
    folder = tmp_path / "adapter"
    _save_adapter(folder, model, words, trainable_token_indices=indices)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _with_base(folder, "base")
    load_model(folder)
    _with_base(folder, "runs/elsewhere/base")
    with pytest.raises(FileNotFoundError, match=r"base model 'runs/elsewhere/base' is neither a folder"):
        load_model(folder)
    for nothing in ("", None):
        _with_base(folder, nothing)
        with pytest.raises(FileNotFoundError, match="names no base model"):
            load_model(folder)


def test_an_adapter_without_a_tokenizer_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _save_plain(tmp_path / "base")
    model, words = load_model(tmp_path / "base")
    _save_adapter(tmp_path / "adapter", model, words)
    for file in (tmp_path / "adapter").glob("*token*"):
        file.unlink()
    load_policy(tmp_path / "adapter", prompted=True, device="cpu")
    assert any("holds no tokenizer" in record.getMessage() for record in caplog.records)
    for file in (tmp_path / "base").glob("*token*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"neither it nor its base .* holds a tokenizer"):
        load_policy(tmp_path / "adapter", prompted=True, device="cpu")


def test_forgotten_embeddings_are_refused(tmp_path: Path) -> None:
    model, words = tiny_model(), tokenizer()
    FunctionalTokens.add(words, Grammar.default())
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"50 embeddings, and so none for <clarify>.*initialize_token"):
        load_policy(tmp_path, device="cpu")
    padded = tiny_model(rows=80)
    with torch.no_grad():
        padded.get_input_embeddings().weight[50:] = 0.01
    padded.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"the same embedding for <clarify> and .*initialize_token"):
        load_policy(tmp_path, device="cpu")


def test_an_adapter_of_rank_8_is_small(tmp_path: Path) -> None:
    """Adapters on all linear layers and the rows of the functional tokens, of a model of SmolLM2-135M's
    shape with this tokenizer's ids in it."""
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=49_152, hidden_size=576, num_hidden_layers=30, intermediate_size=1536,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    tokens = FunctionalTokens.add(words, Grammar.default())
    initialize_token_embeddings(model, words, tokens)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    assert size > 500e6
    adapter = LoraConfig(
        r=8, target_modules="all-linear", task_type="CAUSAL_LM",
        trainable_token_indices=trainable_token_indices(model, tokens),
    )  # fmt: skip
    get_peft_model(model, adapter).save_pretrained(tmp_path, save_embedding_layers=False)
    words.save_pretrained(tmp_path)
    saved = sum(file.stat().st_size for file in tmp_path.rglob("*"))
    assert 0.001 * size < saved < 0.03 * size
