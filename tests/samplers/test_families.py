"""What holds for every family of models, whatever its tokenizer, its chat template and its layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rftt import (
    MCTS,
    Budget,
    FunctionalPolicy,
    FunctionalTokens,
    Grammar,
    MathVerifier,
    Problem,
    SearchConfig,
    State,
    TransformersSampler,
    load_policy,
    run_search,
)
from rftt.policies.chat import chat_question
from rftt.tokens.embeddings import initialize_token_embeddings
from tests.families import CONFIGS, family_model, family_tokenizer

PROBLEMS = [Problem("a", "12 + 7", "19"), Problem("b", "7 * 3 + 12 =", "33")]


def _policy(name: str, device: str = "cpu") -> FunctionalPolicy:
    words = family_tokenizer(name)
    model = family_model(name, len(words) + 3)
    tokens = FunctionalTokens.add(words, Grammar.default())
    initialize_token_embeddings(model, words, tokens)
    sampler = TransformersSampler(model.to(device), words, batch_size=8)
    return FunctionalPolicy(sampler, words, tokens, question=chat_question(words))


@pytest.mark.parametrize("name", CONFIGS)
def test_log_probs_are_those_of_a_plain_forward_pass(name: str, device: str) -> None:
    policy = _policy(name, device)
    searcher = MCTS(expansion="sample", width=2, simulations_per_round=2)
    config = SearchConfig(Budget(rollouts=4), max_tokens=40)
    trees = run_search(PROBLEMS, searcher, policy, MathVerifier(), config)
    sampler = policy.sampler
    assert isinstance(sampler, TransformersSampler)
    checked = 0
    for tree in trees:
        for node in tree.ends():
            state = policy.automaton.between[None]
            ids = list(policy.context(State(tree.problem)))
            sampled = [(s.ids, s.log_probs) for s in tree.state(node).steps]
            steps = [pair for both in sampled for pair in zip(*both, strict=True)]
            with torch.no_grad():
                read = torch.tensor([ids + [i for i, _ in steps]], device=device)
                logits = sampler.model(read).logits[0].double().cpu()
            for place, (token, log_prob) in enumerate(steps, start=len(ids) - 1):
                states = torch.tensor([state])
                allowed = policy.automaton.mask(states)[0]
                plain = logits[place].masked_fill(~allowed, -torch.inf).log_softmax(-1)
                assert abs(float(plain[token]) - log_prob) < 1e-4
                state = int(policy.automaton.next_states(states, torch.tensor([token])))
                checked += 1
    assert checked > 100


@pytest.mark.parametrize("name", CONFIGS)
def test_tags_are_single_ids_and_come_back(name: str) -> None:
    policy = _policy(name)
    words, tokens = policy.tokenizer, policy.tokens
    bodies = {
        name: tuple(words.encode(f"{name}: 7 * 3 = 21 \\boxed{{21}}", add_special_tokens=False))
        for name in tokens.grammar.functions
    }
    ids = [token for name, body in bodies.items() for token in tokens.encode(name, body)]
    spans = tokens.split(ids)
    assert {span.function: tuple(ids[span.start + 1 : span.end - 1]) for span in spans} == bodies
    text = words.decode(ids, skip_special_tokens=False)
    for function in tokens.grammar.functions.values():
        assert words.encode(function.opener, add_special_tokens=False) == [tokens.openers[function.name]]
        assert text.count(function.opener) == 1


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_model_comes_back_through_the_one_door(name: str, tmp_path: Path) -> None:
    policy = _policy(name)
    assert isinstance(policy.sampler, TransformersSampler)
    policy.sampler.model.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    loaded = load_policy(tmp_path, question=policy.question, device="cpu")
    states = [State(problem) for problem in PROBLEMS]
    for mine, theirs in zip(policy.prior(states), loaded.prior(states), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
