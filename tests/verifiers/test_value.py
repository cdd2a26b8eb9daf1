"""Value models as verifiers: in threads, at their limits, and out of order."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from rftt import Problem, State, Step, Verdict, Verifier
from rftt.testing import check_verifier
from rftt.verifiers.value import ValueModel, ValueVerifier
from tests.models import tiny_model


def _context(state: State) -> tuple[int, ...]:
    return (3, 4, *(i for step in state.steps for i in step.ids))


def _state(number: int, length: int = 3) -> State:
    ids = tuple(5 + (number + n) % 30 for n in range(length))
    step = Step("next_step", f"T{number}", ids, (0.0,) * length, (True,) * length, terminal=False)
    return State(Problem(f"p{number}", "?", "7"), (step,))


def _value_model() -> ValueModel:
    model = ValueModel.of_causal_lm(tiny_model(sharp=2.0))
    torch.manual_seed(4)
    torch.nn.init.normal_(model.head.weight)
    return model


def test_threads_may_share_a_model_that_is_being_trained() -> None:
    model = _value_model()
    states = [_state(n, 3 + n) for n in range(6)]
    model.eval()
    with torch.no_grad():
        expected = [float(model(torch.tensor([_context(one)]))[0, -1]) for one in states]
    model.train()
    layers: Any = model.body.layers
    for layer in layers:
        layer.self_attn.attention_dropout = 0.5
    # Two verifiers, as those of two runs: what they share is the model.
    verifiers = [ValueVerifier(model, _context) for _ in range(2)]
    wrong: list[object] = []

    def judge(number: int) -> None:
        for _ in range(5):
            for one, score in zip(states, expected, strict=True):
                (verdict,) = verifiers[number % 2].judge([one])
                if verdict.score != pytest.approx(score, abs=1e-4):
                    wrong.append((verdict.score, score))

    threads = [threading.Thread(target=judge, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(module.training for module in model.modules())


def test_each_module_keeps_the_mode_it_was_in() -> None:
    model = _value_model().train()
    norm: Any = model.body.norm
    norm.eval()
    modes = [module.training for module in model.modules()]
    ValueVerifier(model, _context).judge([_state(1)])
    assert [module.training for module in model.modules()] == modes


def test_autocast_does_not_reach_the_values() -> None:
    verifier = ValueVerifier(_value_model(), _context)
    (expected,) = verifier.judge([_state(1)])
    with torch.autocast("cpu", torch.bfloat16):
        assert verifier.judge([_state(1)]) == [expected]


def test_what_is_too_long_is_abstained_from_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    verifier = ValueVerifier(_value_model(), _context)
    fits, long, other = verifier.judge([_state(1, 510), _state(2, 511), _state(3)])
    assert fits.score is not None
    assert other.score is not None
    assert long == Verdict(None, reason="the state has 513 ids, and the value model takes 512")
    assert verifier.abstained == 1
    assert "'p2'" in caplog.text


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(wrong: float, caplog: pytest.LogCaptureFixture) -> None:
    model = _value_model()
    embeddings: Any = model.body.embed_tokens
    with torch.no_grad():
        embeddings.weight[9] = wrong
    verifier = ValueVerifier(model, _context)
    # Id 9 is in the second step of the one. In attention 0 times it spoils all places of that state.
    steps = (*_state(30).steps, *_state(4).steps)
    bad, good = verifier.judge([State(Problem("bad", "?"), steps), _state(30)])
    assert bad.score is None
    assert bad.reason.startswith("the value after the question is nan, not a finite")
    assert good.score is not None
    assert verifier.abstained == 1
    assert [r.levelno for r in caplog.records] == [logging.WARNING]


def test_it_keeps_a_verifiers_promises() -> None:
    verifier = ValueVerifier(_value_model(), _context)
    check_verifier(verifier, states=[_state(n, 3 + n) for n in range(4)], tolerance=1e-4)


class _Boxes(Verifier):
    def judge(self, states: Sequence[State]) -> list[Verdict]:
        assert all(state.problem.answer is None for state in states)
        return [Verdict(1.0, state.steps[-1].text) for state in states]


def test_an_abstention_has_an_answer_and_no_gold_is_shown() -> None:
    verifier = ValueVerifier(_value_model(), _context, answers=_Boxes())
    assert [verdict.answer for verdict in verifier.judge([_state(1), _state(2, 600)])] == ["T1", "T2"]
