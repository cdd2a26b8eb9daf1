"""The demo's policies: nano asked in words, and models that have the functional tokens."""

from __future__ import annotations

from collections.abc import Collection

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.demo.settings import DemoSettings
from rftt.nano.checkpoint import load_nano
from rftt.policies.functional import FunctionalPolicy
from rftt.policies.prompted import PromptedPolicy
from rftt.samplers.transformers.sampler import TransformersSampler
from rftt.tokens.functional import FunctionalTokens
from rftt.tokens.grammar import Grammar


def prompted_policy(
    settings: DemoSettings, functions: Collection[str], temperature: float
) -> PromptedPolicy:
    """Return nano, asked for these functions in words."""
    model, tokenizer = load_nano()
    sampler = _sampler(settings, model, tokenizer, temperature)
    return PromptedPolicy(sampler, tokenizer, Grammar.default(), functions=functions)


def functional_policy(
    settings: DemoSettings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    temperature: float,
) -> FunctionalPolicy:
    """Return a policy that samples from a model with functional tokens."""
    sampler = _sampler(settings, model, tokenizer, temperature)
    return FunctionalPolicy(sampler, tokenizer, FunctionalTokens.find(tokenizer, Grammar.default()))


def _sampler(
    settings: DemoSettings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    temperature: float,
) -> TransformersSampler:
    return TransformersSampler(
        model, tokenizer, temperature=temperature,
        batch_size=settings.batch_size, prefix_bytes=settings.prefix_bytes,
    )  # fmt: skip
