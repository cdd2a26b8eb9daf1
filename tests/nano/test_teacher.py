"""nano's training text: every target is true, every wrong step is context only."""

from __future__ import annotations

import re
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from rftt import Grammar
from rftt.nano.checkpoint import FOLDER, load_nano
from rftt.nano.teacher import TextSpan, training_expression, write_trace
from rftt.nano.tokenizer import build_tokenizer
from rftt.problems.arithmetic import apply, render, steps

GRAMMAR = Grammar.default()
TOKENIZER = build_tokenizer(GRAMMAR)
CLAIM = re.compile(r"(?<!\d)(\d+)([-+*])(\d+)=(\d+)")


def _trace(seed: int, reword: bool = False) -> tuple[str, int, list[TextSpan]]:
    rng = Random(seed)
    expression = training_expression(rng)
    *_, (_, value) = steps(expression)
    assert isinstance(value, int)
    return render(expression), value, write_trace(expression, rng, GRAMMAR, reword=reword)


@given(st.integers(0, 10**9), st.booleans())
def test_every_claim_that_is_a_target_is_true(seed: int, reword: bool) -> None:
    _, value, spans = _trace(seed, reword)
    targets = [text for text, is_target in spans if is_target]
    for text in targets:
        for left, operator, right, result in CLAIM.findall(text):
            assert apply(operator, int(left), int(right)) == int(result)
    assert targets[-1] == f"\\boxed{{{value}}}\n"


@given(st.integers(0, 10**9))
def test_a_wrong_claim_is_followed_by_a_check_that_says_so_and_a_correction(seed: int) -> None:
    _, _, spans = _trace(seed)
    for place, (text, is_target) in enumerate(spans):
        claims = CLAIM.findall(text)
        wrong = [c for c in claims if apply(c[1], int(c[0]), int(c[2])) != int(c[3])]
        if wrong:
            assert not is_target
            after = [later for later, is_target in spans[place + 1 :] if is_target]
            assert after[0].endswith(f" not {wrong[0][3]}\n")
            left, operator, right, _ = wrong[0]
            value = apply(operator, int(left), int(right))
            assert after[1].startswith(f"{left}{operator}{right}={value} so ")


@given(st.integers(0, 10**9), st.booleans())
def test_the_tokenizer_gives_the_text_back_and_knows_every_word(seed: int, reword: bool) -> None:
    question, _, spans = _trace(seed, reword)
    text = "".join(text for text, _ in spans)
    ids = [i for span, _ in spans for i in TOKENIZER.encode(span, add_special_tokens=False)]
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.unk_token_id not in ids
    assert text.startswith(question + "\n")


@given(st.integers(0, 10**9), st.booleans())
def test_no_text_holds_a_functional_token(seed: int, reword: bool) -> None:
    _, _, spans = _trace(seed, reword)
    assert "<" not in "".join(text for text, _ in spans)


def test_shipped_nano_is_small_and_has_not_seen_a_functional_token() -> None:
    model, tokenizer = load_nano()
    assert 1e6 <= sum(parameter.numel() for parameter in model.parameters()) <= 3e6
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 8 * 2**20
    assert not any(token.startswith("</") for token in tokenizer.get_vocab())
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()
