"""Tags are single ids, steps come back exactly, and the automaton is the grammar."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from attrs import asdict
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

from rftt import Function, FunctionalTokens, Grammar
from rftt.tokens.automaton import END, TokenAutomaton, grammar_automaton, stop_automaton
from rftt.tokens.embeddings import initialize_token_embeddings, trainable_token_indices
from tests.models import tiny_model, tokenizer

GRAMMAR = Grammar.default()
TOKENIZER = tokenizer()
PLAIN = len(TOKENIZER)
TOKENS = FunctionalTokens.add(TOKENIZER, GRAMMAR)

steps = st.tuples(
    st.sampled_from(sorted(GRAMMAR.functions)), st.lists(st.integers(0, PLAIN - 1)).map(tuple)
)


def _encode(solution: list[tuple[str, tuple[int, ...]]]) -> list[int]:
    return [token for function, body in solution for token in TOKENS.encode(function, body)]


@given(st.lists(steps), st.booleans())
def test_steps_come_back_exactly(
    solution: list[tuple[str, tuple[int, ...]]], without_last_closer: bool
) -> None:
    is_cut = without_last_closer and bool(solution)
    ids = _encode(solution)[: -1 if is_cut else None]
    spans = TOKENS.split(ids)
    assert [span.function for span in spans] == [function for function, _ in solution]
    assert [span.closed for span in spans] == [True] * (len(spans) - is_cut) + [False] * is_cut
    for span, (_, body) in zip(spans, solution, strict=True):
        assert tuple(ids[span.start + 1 : span.end - span.closed]) == body
    assert [span.start for span in spans] == [0, *(span.end for span in spans)][: len(spans)]


@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=8))
def test_what_splits_encodes_to_the_same_ids(ids: list[int]) -> None:
    try:
        spans = TOKENS.split(ids)
    except ValueError:
        with pytest.raises(ValueError, match="position"):
            TOKENS.split(ids)
    else:
        bodies = [(s.function, tuple(ids[s.start + 1 : s.end - s.closed])) for s in spans]
        encoded = _encode(bodies)
        assert encoded[: len(encoded) - (not all(s.closed for s in spans))] == ids


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


def test_tags_of_which_some_are_there_are_not_sent_in_a_circle() -> None:
    """``find`` said to call ``add``, and ``add`` to call ``find``."""
    some = tokenizer()
    some.add_tokens(["<verify>"], special_tokens=True)
    with pytest.raises(ValueError, match=r"no token for <clarify>.*but has <verify>.*rename"):
        FunctionalTokens.find(some, GRAMMAR)


@pytest.mark.parametrize(
    ("separator", "description", "message"),
    [("", "do it", "separator: the tokenizer makes no ids of ''"), ("\n", "go", "description of 'go'")],
)
def test_embeddings_of_nothing_are_refused(
    separator: str, description: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean of no embeddings is NaN."""
    words, model = tokenizer(), tiny_model()
    grammar = Grammar([Function("go", description)], ("go",), {})
    tokens = FunctionalTokens.add(words, grammar)
    encode = words.encode
    monkeypatch.setattr(words, "encode", lambda text, **k: [] if text == "go:" else encode(text, **k))
    with pytest.raises(ValueError, match=message):
        initialize_token_embeddings(model, words, tokens, separator=separator)


def test_bodies_may_not_hold_functional_tokens() -> None:
    with pytest.raises(ValueError, match="a step of 'verify': its body holds"):
        TOKENS.encode("verify", (TOKENS.openers["refine"],))


def _next(automaton: TokenAutomaton, state: int, token: int) -> int | None:
    """The state after an id, ``None`` if the id is not allowed."""
    states = torch.tensor([state])
    if not automaton.mask(states)[0, token]:
        return None
    return int(automaton.next_states(states, torch.tensor([token])))


@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=12))
def test_the_automaton_allows_exactly_what_the_grammar_allows(ids: list[int]) -> None:
    automaton = grammar_automaton(TOKENS, tokenizer_size=len(TOKENIZER), vocab_size=len(TOKENIZER) + 3)
    state: int | None = automaton.between[None]
    closed = 0
    for token in ids:
        state = None if state is None or state == END else _next(automaton, state, token)
        closed += bool(automaton.closes(torch.tensor([token])))
    try:
        spans = TOKENS.split(ids)
        legal = GRAMMAR.violation([span.function for span in spans]) is None
    except ValueError:
        legal = False
    assert (state is not None) == legal
    if legal:
        assert closed == sum(span.closed for span in spans)


def test_at_its_end_an_automaton_stays_there() -> None:
    grammar = grammar_automaton(TOKENS, tokenizer_size=len(TOKENIZER), vocab_size=100)
    for automaton in (grammar, stop_automaton([5], 50, 100), stop_automaton([], 50, 100)):
        ids = torch.arange(100)
        assert (automaton.next_states(torch.full((100,), END), ids) == END).all()
        assert automaton.mask(torch.tensor([END])).any()


def test_a_model_without_rows_for_the_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has 50 rows.*initialize_token_embeddings"):
        grammar_automaton(TOKENS, tokenizer_size=len(TOKENIZER), vocab_size=PLAIN)


def test_rows_beyond_the_tokenizer_are_never_allowed() -> None:
    grammar = grammar_automaton(TOKENS, tokenizer_size=len(TOKENIZER), vocab_size=100, banned=[0])
    mask = grammar.mask(torch.arange(len(grammar.in_body)))
    assert mask.shape == (2 + 2 * len(GRAMMAR.functions), 100)
    assert not mask[:, len(TOKENIZER) :].any()
    assert not mask[:, 0].any()
    assert not grammar.allows_everything


def test_a_stop_ends_a_sample_and_a_step_and_nothing_else_does() -> None:
    stop = stop_automaton([5, 7], 50, 100)
    ids = torch.arange(100)
    assert stop.mask(torch.tensor([1]))[0].tolist() == [token < 50 for token in range(100)]
    ends = stop.next_states(torch.ones(100, dtype=torch.int64), ids) == END
    assert ids[ends].tolist() == [5, 7]
    assert ids[stop.closes(ids)].tolist() == [5, 7]
    assert stop.specials(1) == [5, 7]
    assert not stop.allows_everything
    assert stop_automaton([5], 50, 50).allows_everything


def test_a_blank_stop_is_allowed_once_something_was_drawn() -> None:
    stop = stop_automaton([5, 7], 50, 100, blank_ids=[5, 9], banned=[3])
    mask = stop.mask(torch.tensor([1, 2]))
    assert mask[0].tolist() == [token < 50 and token not in (3, 5) for token in range(100)]
    assert mask[1].tolist() == [token < 50 and token != 3 for token in range(100)]
    for token, after in [(9, 1), (20, 2), (7, END)]:
        assert _next(stop, 1, token) == after
    for token, after in [(9, 2), (20, 2), (5, END), (7, END)]:
        assert _next(stop, 2, token) == after
    assert stop.closes(torch.arange(100)).nonzero()[:, 0].tolist() == [5, 7]
    with pytest.raises(ValueError, match="id 5 is both a stop and banned"):
        stop_automaton([5], 50, 100, banned=[5])


@pytest.mark.parametrize("stops", [0, 2000])
def test_tables_are_small_for_a_large_vocabulary(stops: int) -> None:
    """A table of states by vocabulary takes 44 MB for the grammar."""
    size = 152_000
    grammar = grammar_automaton(TOKENS, tokenizer_size=size - 300, vocab_size=size)
    for automaton in (grammar, stop_automaton(range(stops), size - 300, size)):
        tables = [value for value in asdict(automaton).values() if isinstance(value, torch.Tensor)]
        assert sum(table.numel() * table.element_size() for table in tables) < 250_000


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_start_from_their_words(tied: bool) -> None:
    model = tiny_model(tied=tied)
    before = [
        m.weight.detach().clone() for m in (model.get_input_embeddings(), model.get_output_embeddings())
    ]
    initialize_token_embeddings(model, TOKENIZER, TOKENS)
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
    initialize_token_embeddings(model, TOKENIZER, TOKENS)
    before = model.get_input_embeddings().weight.detach().clone()
    config = LoraConfig(
        r=2, target_modules=["q_proj"], trainable_token_indices=trainable_token_indices(model, TOKENS)
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
