"""Small real models for tests: a Llama of random weights over nano's tokenizer."""

from __future__ import annotations

import torch
from attrs import evolve
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from rftt import FunctionalPolicy, FunctionalTokens, Grammar, TransformersSampler
from rftt.nano.tokenizer import build_tokenizer
from rftt.tokens.embeddings import initialize_token_embeddings


def tiny_model(
    *,
    seed: int = 0,
    tied: bool = True,
    rows: int | None = None,
    sharp: float = 4.0,
    device: str = "cpu",
) -> PreTrainedModel:
    """A model of two layers; larger ``sharp`` makes its distributions less uniform."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=rows or len(tokenizer()),
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=64,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(sharp)
    return model.eval().to(device)


def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer(Grammar.default())


def functional_policy(
    *,
    seed: int = 0,
    tied: bool = True,
    temperature: float = 1.0,
    batch_size: int = 512,
    brief: bool = False,
) -> FunctionalPolicy:
    """A policy on a tiny model that has the functional tokens.

    A model of random weights hardly ever ends a step. Where it is to be ``brief``, bodies hold three ids
    only, so that most solutions end within 40 tokens.
    """
    model = tiny_model(seed=seed, tied=tied, sharp=1.0 if brief else 4.0)
    words = tokenizer()
    tokens = FunctionalTokens.add(words, Grammar.default())
    initialize_token_embeddings(model, words, tokens)
    sampler = TransformersSampler(model, words, temperature=temperature, batch_size=batch_size)
    policy = FunctionalPolicy(sampler, words, tokens)
    if brief:
        body_ids = torch.zeros_like(policy.automaton.body_ids)
        body_ids[20:23] = True
        policy.automaton = evolve(policy.automaton, body_ids=body_ids)
    return policy
