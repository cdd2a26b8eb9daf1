"""Tags are single ids, steps come back exactly, and the automaton is the grammar."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

from rftt import FunctionalTokens, Grammar, Step, add_rows
from rftt.tokens.automaton import END, grammar_automaton, stop_automaton
from rftt.tokens.embeddings import token_row_targets
from tests.models import tiny_model, tokenizer

GRAMMAR = Grammar.default()
TOKENIZER = tokenizer()
PLAIN = len(TOKENIZER)
TOKENS = FunctionalTokens.add(TOKENIZER, GRAMMAR)

steps = st.builds(
    Step, st.sampled_from(sorted(GRAMMAR.functions)), st.lists(st.integers(0, PLAIN - 1)).map(tuple)
)


@given(st.lists(steps), st.booleans())
def test_steps_come_back_exactly(solution: list[Step], open_end: bool) -> None:
    if solution and open_end:
        solution[-1] = Step(solution[-1].function, solution[-1].body, is_closed=False)
    assert TOKENS.decode(TOKENS.encode(solution)) == solution


@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=8))
def test_what_decodes_encodes_to_the_same_ids(ids: list[int]) -> None:
    try:
        solution = TOKENS.decode(ids)
    except ValueError:
        with pytest.raises(ValueError, match="position"):
            TOKENS.decode(ids)
    else:
        assert TOKENS.encode(solution) == ids


def test_every_tag_is_one_id_and_survives_saving(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    again = FunctionalTokens.find(AutoTokenizer.from_pretrained(tmp_path), GRAMMAR)
    assert again.ids == TOKENS.ids
    assert len(set(TOKENS.ids)) == 2 * len(GRAMMAR.functions)
    for function in GRAMMAR.functions.values():
        text = f"12{function.opener}3+4{function.closer}"
        assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text


def test_a_tag_that_is_taken_is_named() -> None:
    taken = tokenizer()
    taken.add_tokens(["<verify>"])
    with pytest.raises(ValueError, match="already uses <verify>"):
        FunctionalTokens.add(taken, GRAMMAR)


def test_missing_tags_are_named_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"no token for <clarify>.*FunctionalTokens\.add"):
        FunctionalTokens.find(tokenizer(), GRAMMAR)


def test_bodies_may_not_hold_functional_tokens() -> None:
    with pytest.raises(ValueError, match=r"step 0 \('verify'\)"):
        TOKENS.encode([Step("verify", (TOKENS.openers["refine"],))])


@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=12))
def test_the_automaton_allows_exactly_what_the_grammar_allows(ids: list[int]) -> None:
    automaton = grammar_automaton(TOKENS, vocabulary=len(TOKENIZER), size=len(TOKENIZER) + 3)
    state, allowed = automaton.between[None], True
    for token in ids:
        if state == END or not automaton.allowed[state, token]:
            allowed = False
            break
        state = int(automaton.following[state, token])
    try:
        decoded = TOKENS.decode(ids)
        legal = GRAMMAR.violation([step.function for step in decoded]) is None
    except ValueError:
        legal = False
    assert allowed == legal


def test_rows_beyond_the_tokenizer_are_never_allowed() -> None:
    grammar = grammar_automaton(TOKENS, vocabulary=len(TOKENIZER), size=100, banned=[0])
    assert not grammar.allowed[1:, len(TOKENIZER) :].any()
    assert not grammar.allowed[1:, 0].any()
    stop = stop_automaton([5], 50, 100)
    assert not stop.allowed[1, 50:].any()
    assert stop.following[1, 5] == END
    assert stop.following[1, 6] == 1


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_start_from_their_words(tied: bool) -> None:
    model = tiny_model(tied=tied)
    before = [
        m.weight.detach().clone() for m in (model.get_input_embeddings(), model.get_output_embeddings())
    ]
    add_rows(model, TOKENIZER, TOKENS)
    for old, module in zip(
        before, (model.get_input_embeddings(), model.get_output_embeddings()), strict=True
    ):
        assert torch.equal(module.weight[:PLAIN], old)
        for name, function in GRAMMAR.functions.items():
            words = TOKENIZER.encode(f"{function.description}:", add_special_tokens=False)
            expected = torch.stack([old[word] for word in words]).mean(0)
            torch.testing.assert_close(module.weight[TOKENS.openers[name]], expected)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied


@pytest.mark.parametrize("tied", [True, False])
def test_peft_trains_only_the_new_rows(tied: bool) -> None:
    model = tiny_model(tied=tied)
    add_rows(model, TOKENIZER, TOKENS)
    before = model.get_input_embeddings().weight.detach().clone()
    config = LoraConfig(
        r=2, target_modules=["q_proj"], trainable_token_indices=token_row_targets(model, TOKENS)
    )
    tuned = get_peft_model(model, config)
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=1.0)
    ids = torch.tensor([[1, TOKENS.openers["verify"], 5, TOKENS.closers["verify"]]])
    tuned(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    merged = tuned.merge_and_unload()
    for matrix in (merged.get_input_embeddings(), merged.get_output_embeddings()):
        changed = (matrix.weight - before).abs().sum(1).nonzero()[:, 0] if tied else None
        if changed is not None:
            assert set(changed.tolist()) <= set(TOKENS.ids)
            assert len(changed) > 0
