"""However prefixes are shared, scores and gradients are those of each sequence by itself."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
)

from rftt.learners.experience import Experience
from rftt.learners.forward import attention
from rftt.learners.forward.distribution import _Distribution
from rftt.learners.forward.packing import shared_prefix_order
from rftt.learners.forward.score import Packing, TokenScores, score_tokens
from rftt.learners.reference import WithoutAdapter
from rftt.tokens.automaton import TokenAutomaton, stop_automaton
from tests.families import family_model
from tests.learners.tries import Row, as_experience, grown_rows, ragged_rows
from tests.models import tiny_model

IDS = 40
SHARING: list[Packing] = ["tree", "depth_first"]
RMS = 1e-5
"""Models are in double precision, so that differences are not of rounding; but RMSNorm is float32."""


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=IDS, n_positions=512, n_embd=32, n_layer=2, n_head=2)
    return GPT2LMHeadModel(config).eval()


def eager() -> PreTrainedModel:
    model = tiny_model(sharp=2.0, rows=IDS)
    model.set_attn_implementation("eager")
    return model


def with_adapter() -> nn.Module:
    torch.manual_seed(0)
    modules = ["q_proj", "v_proj", "down_proj"]
    model = get_peft_model(
        tiny_model(rows=IDS), LoraConfig(target_modules=modules, init_lora_weights=False)
    )
    return model.eval()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: tiny_model(rows=IDS),
    "llama, untied": lambda: tiny_model(rows=IDS, tied=False),
    "llama, eager": eager,
    "llama, LoRA": with_adapter,
    "qwen2": lambda: family_model("qwen2", IDS),
    "qwen3": lambda: family_model("qwen3", IDS),
    "phi": lambda: family_model("phi", IDS),
    "gemma": lambda: family_model("gemma", IDS),
    "gpt2": gpt2,
}


def trees(seed: int = 0) -> Experience:
    """Two trees of 12 rollouts, more than 128 distinct tokens, 1.7 times as many flat ones."""
    return as_experience(grown_rows(seed, ids=IDS), question=3)


def automaton() -> TokenAutomaton:
    """Two states: one allows everything but the last two ids, the other forbids every third, too."""
    made = stop_automaton([*range(3, IDS, 3)], tokenizer_size=IDS - 2, vocab_size=IDS)
    return attrs.evolve(made, allowed=made.allowed * torch.tensor([[True], [False]]))


def score(model: Any, batch: Experience, packing: Packing, **more: Any) -> TokenScores:
    return score_tokens(model, batch, None, entropy=True, hidden=True, packing=packing, **more)


def gradients(model: nn.Module, scores: TokenScores) -> list[Tensor]:
    """Of a sum of everything, with weights that differ from place to place."""
    assert scores.entropy is not None
    assert scores.hidden is not None
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(scores.log_probs.shape, generator=generator)
    per_token = scores.log_probs + 0.3 * scores.entropy + 0.1 * scores.hidden.square().sum(-1)
    model.zero_grad()
    (per_token * weight).sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def assert_equal(model: nn.Module, ours: TokenScores, expected: TokenScores, error: float) -> None:
    """Scores and gradients are equal; ``error`` is relative to the largest entry of each tensor."""
    pairs = [
        (getattr(ours, name), getattr(expected, name)) for name in ("log_probs", "entropy", "hidden")
    ]
    pairs += zip(gradients(model, ours), gradients(model, expected), strict=True)
    for a, b in pairs:
        assert a.dtype == b.dtype
        assert (a - b).abs().max() <= error * b.abs().max() + 1e-14


@pytest.mark.parametrize("packing", SHARING)
@pytest.mark.parametrize("name", MODELS)
def test_sharing_changes_nothing(name: str, packing: Packing) -> None:
    model, batch = MODELS[name]().double(), trees()
    error = 1e-11 if name in ("gpt2", "phi") else RMS
    assert_equal(model, score(model, batch, packing), score(model, batch, "none"), error)


@pytest.mark.parametrize("packing", SHARING)
def test_in_single_precision_gradients_are_equal_to_1e_5(packing: Packing) -> None:
    model, batch = tiny_model(rows=IDS, sharp=2.0), trees()
    assert_equal(model, score(model, batch, packing), score(model, batch, "none"), 1e-5)


@settings(max_examples=40)
@given(ragged_rows(), st.integers(1, 20), st.sampled_from(["tree", "depth_first"]))
def test_any_rows(rows: list[Row], limit: int, packing: Packing) -> None:
    """Repeated rows, a row that is the beginning of another, several trees, rows without an action."""
    model, batch = gpt2().double(), as_experience(rows)
    is_action = batch.action_mask & (batch.ids != 2)
    batch = attrs.evolve(batch, action_mask=is_action)
    ours = score_tokens(model, batch, automaton(), 0.7, entropy=True, hidden=True, packing=packing,
                        max_row_tokens=limit)  # fmt: skip
    flat = score_tokens(model, batch, automaton(), 0.7, entropy=True, hidden=True, packing="none")
    assert_equal(model, ours, flat, RMS)


def test_flex_attention_takes_the_tree_as_a_block_mask(device: str) -> None:
    """On a CPU PyTorch has its forward pass only, and compiles neither mask nor attention here."""
    model, batch = tiny_model(rows=IDS, sharp=2.0, device=device), trees().to(torch.device(device))
    flat = score(model, batch, "none")
    model.set_attn_implementation("flex_attention")
    if device == "cuda":
        assert_equal(model, score(model, batch, "tree"), flat, 1e-3)  # its matmuls are TF32
        return
    with torch.no_grad():
        torch.testing.assert_close(score(model, batch, "tree").log_probs, flat.log_probs)


@pytest.mark.parametrize("packing", ["none", *SHARING])
def test_scores_are_those_of_each_row_alone(packing: Packing) -> None:
    """The equations, row by row, from the model's own logits and hidden states."""
    model, batch, allowed = tiny_model(rows=IDS).double(), trees(1), automaton()
    # States that depend on the path, of which one forbids what the other allows.
    batch = attrs.evolve(batch, states=batch.ids.cumsum(1) % 2)
    found = score_tokens(model, batch, allowed, 0.5, entropy=True, hidden=True, packing=packing)
    assert found.entropy is not None
    assert found.hidden is not None
    for row in range(len(batch)):
        length = int(batch.attention_mask[row].sum())
        ids = batch.ids[row, :length]
        with torch.no_grad():
            output = model(ids[None], output_hidden_states=True)
        for place in range(batch.ids.shape[1]):
            if place >= length or not batch.action_mask[row, place]:
                assert found.log_probs[row, place] == 0
                assert found.entropy[row, place] == 0
                assert (found.hidden[row, place] == 0).all()
                continue
            legal = allowed.mask(batch.states[row, place][None])[0]
            weights = (output.logits[0, place - 1] / 0.5).exp() * legal
            p = weights / weights.sum()
            entropy = -(p[legal] * p[legal].log()).sum()
            hidden = output.hidden_states[-1][0, place - 1]
            if legal[ids[place]]:
                torch.testing.assert_close(found.log_probs[row, place], p[ids[place]].log())
            else:
                assert found.log_probs[row, place] == -torch.inf
            torch.testing.assert_close(found.entropy[row, place], entropy)
            torch.testing.assert_close(found.hidden[row, place], hidden)


def test_the_distribution_has_the_gradient_of_its_equations() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    ids, allowed = torch.tensor([0, 1, 2, 3, 4]), torch.rand(5, 7) < 0.6
    allowed[range(5), ids] = True
    for mask in (None, allowed):
        for outputs in (slice(0, 1), slice(1, 2), slice(0, 2)):
            assert torch.autograd.gradcheck(
                lambda x, m=mask, o=outputs: _Distribution.apply(x, ids, m, 0.7)[o], logits
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_forbidden_id_has_no_gradient_however_much_entropy_weighs(dtype: torch.dtype) -> None:
    """Two of three ids are allowed, with logits 0 and log 3: p = 1/4, 3/4, and
    dH/dz = -p (log p + H) = -+ 3/16 log 3."""
    logits = torch.tensor([[0.0, math.log(3), 5.0]], dtype=dtype, requires_grad=True)
    allowed = torch.tensor([[True, True, False]])
    log_probs, entropies = _Distribution.apply(logits, torch.tensor([0]), allowed, 1.0)
    torch.testing.assert_close(log_probs.exp(), torch.tensor([0.25], dtype=dtype))
    (gradient,) = torch.autograd.grad(entropies * 16e3, logits)
    slope = 3e3 * math.log(3)
    torch.testing.assert_close(gradient, torch.tensor([[slope, -slope, 0.0]], dtype=dtype))


def test_siblings_do_not_see_each_other() -> None:
    """With all but one row replaced below a branch, that row's scores stay."""
    model, batch = tiny_model(rows=IDS).double(), trees()
    kept = int(batch.attention_mask.sum(1).argmax())
    shared = (batch.ids == batch.ids[kept]).cumprod(1).bool()
    others = torch.where(shared, batch.ids, (batch.ids * 7 + 3) % IDS)
    others[kept] = batch.ids[kept]
    assert not torch.equal(others, batch.ids)
    for packing in SHARING:
        before, after = (
            score(model, batch, packing),
            score(model, attrs.evolve(batch, ids=others), packing),
        )
        assert after.hidden is not None
        assert before.hidden is not None
        torch.testing.assert_close(after.log_probs[kept], before.log_probs[kept])
        torch.testing.assert_close(after.hidden[kept], before.hidden[kept])


def tokens_read(model: nn.Module, run: Callable[[], Any]) -> int:
    read = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _, ids, __: read.append(ids[0].numel())
    )
    run()
    hook.remove()
    return sum(read)


@pytest.mark.parametrize("packing", SHARING)
def test_each_prefix_is_computed_once(packing: Packing) -> None:
    model, batch = tiny_model(rows=IDS), trees()
    distinct = sum(shared_prefix_order(batch.ids, batch.attention_mask, batch.states)[1])
    assert distinct < batch.attention_mask.sum() / 1.5
    assert tokens_read(model, lambda: score(model, batch, packing)) <= distinct


def test_depth_first_keeps_no_activations() -> None:
    def saved(packing: Packing) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: (sizes.append(tensor.numel()), tensor)[1], lambda tensor: tensor
        ):
            score(model, batch, packing)
        return sum(sizes)

    model, batch = tiny_model(rows=IDS), trees()
    assert saved("depth_first") < saved("tree") / 20


def test_the_output_layer_is_run_at_actions_only() -> None:
    model, batch = tiny_model(rows=IDS), trees()
    batch = attrs.evolve(batch, action_mask=batch.action_mask & (batch.ids == 7))
    rows: list[int] = []
    model.get_output_embeddings().register_forward_hook(
        lambda _, __, out: rows.append(out[..., 0].numel())
    )
    for packing in ("none", *SHARING):
        rows.clear()
        score(model, batch, packing)
        assert sum(rows) <= int(batch.action_mask.sum())
    assert not model.get_output_embeddings()._forward_pre_hooks


@pytest.mark.parametrize("packing", ["none", *SHARING])
@pytest.mark.parametrize("how", ["bfloat16", "autocast"])
def test_half_precision_gives_float32(how: str, packing: Packing) -> None:
    model, batch = tiny_model(rows=IDS, sharp=2.0), trees()
    exact = score(model, batch, "none")
    if how == "bfloat16":
        model = model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        with torch.no_grad():  # as reference log-probabilities are: autocast keeps what it has cast
            score(model, batch, packing)
        found = score(model, batch, packing)
    assert found.log_probs.dtype == torch.float32
    assert found.entropy is not None
    assert found.entropy.dtype == torch.float32
    torch.testing.assert_close(found.log_probs, exact.log_probs, rtol=0.02, atol=0.2)
    grads = gradients(model, found)
    assert len(grads) == len(list(model.parameters()))
    assert all(torch.isfinite(g).all() and g.any() for g in grads)


@pytest.mark.parametrize("packing", ["none", *SHARING])
def test_gradient_checkpointing(packing: Packing) -> None:
    model, batch = tiny_model(rows=IDS).double(), trees()
    expected = score(model, batch, "none")
    plain = gradients(model, expected)
    model.gradient_checkpointing_enable()
    model.train()
    found = gradients(model, score(model, batch, packing))
    assert all(module.training for module in model.modules())
    for a, b in zip(found, plain, strict=True):
        assert (a - b).abs().max() <= RMS * b.abs().max()


@pytest.mark.parametrize("packing", SHARING)
def test_a_model_with_its_adapter_off(packing: Packing) -> None:
    model, batch = with_adapter().double(), trees()
    plain = score(tiny_model(rows=IDS).double(), batch, "none")
    with torch.no_grad():
        found = score(WithoutAdapter(model), batch, packing)
    torch.testing.assert_close(found.log_probs, plain.log_probs)


@pytest.mark.parametrize("packing", ["none", *SHARING])
@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_to_score(rows: int, packing: Packing) -> None:
    """Shapes are as always, and everything hangs on the parameters, with gradient 0."""
    model, batch = tiny_model(rows=IDS), trees().select(torch.arange(rows))
    batch = attrs.evolve(batch, action_mask=torch.zeros_like(batch.action_mask))
    found = score(model, batch, packing)
    assert found.hidden is not None
    assert found.hidden.shape == (*batch.ids.shape, 32)
    assert not found.log_probs.any()
    assert not any(gradient.any() for gradient in gradients(model, found))


@pytest.mark.parametrize("name", ["mistral", "gemma3", "qwen3 of two kinds of layer"])
def test_a_window_is_no_obstacle_until_a_path_is_longer(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    attention._said.clear()
    model = family_model(name, IDS).double()
    short = as_experience([[(1, 0), (place, 0), (3, 0)] * 4 for place in range(4)])
    long = as_experience([[*row, (5, 0)] for row in [[(1, 0), (p, 0), (3, 0)] * 4 for p in range(4)]])
    for batch, distinct in [(short, 45), (long, None)]:
        read = tokens_read(model, lambda batch=batch: score(model, batch, "tree"))
        assert read == (distinct or long.ids.numel())
        for packing in SHARING:
            assert_equal(model, score(model, batch, packing), score(model, batch, "none"), RMS)
    assert caplog.text.count("layers that see 12 tokens") == 1
    assert type(model).__name__ in caplog.text


def test_other_models_get_flat_rows_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    attention._said.clear()
    torch.manual_seed(0)
    bloom = BloomForCausalLM(BloomConfig(vocab_size=IDS, hidden_size=16, n_layer=1, n_head=2)).eval()
    mamba = MambaForCausalLM(
        MambaConfig(vocab_size=IDS, hidden_size=16, num_hidden_layers=1, state_size=4)
    ).eval()
    llama = tiny_model(rows=IDS)
    llama.config._attn_implementation = "flash_attention_2"
    batch = trees()
    with caplog.at_level(logging.WARNING):
        for model, why in [(bloom, "no position_ids"), (mamba, "recurrent")]:
            found = score_tokens(model, batch, None).log_probs
            assert torch.equal(found, score_tokens(model, batch, None, packing="none").log_probs)
            assert why in caplog.text
    assert "flash_attention_2" in (attention.packing_obstacle(llama, 5) or "")
    with pytest.raises(ValueError, match="MambaForCausalLM keeps no keys and values"):
        score_tokens(mamba, batch, None, packing="depth_first")
