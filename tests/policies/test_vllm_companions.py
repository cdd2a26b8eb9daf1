"""Requests of one context in one row of vLLM's engine."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rftt.policies.distribution import Warp
from rftt.policies.sampler import SampleRequest
from rftt.policies.vllm_companions import TOGETHER, apart, mark
from tests.policies.vllm_pair import NEEDS_VLLM, Pair, set_warp

SIZE = 7


@given(
    st.lists(
        st.tuples(
            st.integers(0, SIZE - 1),
            st.floats(-103, 0, width=32),
            st.lists(st.integers(0, SIZE - 1), max_size=TOGETHER - 1),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_marked_is_read_again(drawn: list[tuple[int, float, list[int]]]) -> None:
    """Each row's own id, its log-probability, and the ids of its companions."""
    logits = torch.full((len(drawn), SIZE), -torch.inf)
    parted = [
        (row, token, number)
        for row, (own, _, others) in enumerate(drawn)
        for number, token in enumerate(others)
        if token != own
    ]
    rows, ids, numbers = torch.tensor(parted, dtype=torch.int64).reshape(-1, 3).T
    mark(logits, rows, ids, numbers)
    for row, (own, log_prob, others) in zip(logits, drawn, strict=True):
        row[own] = log_prob
        assert int(row.argmax()) == own
        assert dict(apart(enumerate(row.tolist()))) == {
            token: [number for number, other in enumerate(others) if other == token]
            for token in {*others} - {own}
        }


@pytest.mark.usefixtures("engine_in_this_process")
class TestEngine:
    pytestmark = NEEDS_VLLM

    @pytest.mark.parametrize("kind", ["grammar", "any"])
    @pytest.mark.parametrize("temperature", [0.3, 1.0])
    def test_companions_draw_what_they_would_draw_alone(
        self, pair: Pair, kind: str, temperature: float
    ) -> None:
        set_warp(pair, Warp(temperature))
        automaton = getattr(pair, kind)
        requests = [
            SampleRequest((3, 4 + n % 3, 5), n, automaton.between[None], 40 - n // 60)
            for n in range(3 * TOGETHER + 30)
        ]
        mine = pair.vllm.sample(requests, automaton)
        theirs = pair.transformers.sample(requests, automaton)
        assert [s.ids for s in mine] == [s.ids for s in theirs]
        assert len({s.ids for s in mine}) > 5
        for sample, other in zip(mine, theirs, strict=True):
            assert sample.log_probs == pytest.approx(other.log_probs, abs=1e-4)

    def test_the_same_sample_is_computed_once(self, pair: Pair) -> None:
        set_warp(pair, Warp(0.0))
        pair.vllm.llm.reset_prefix_cache()
        read = pair.vllm.prefilled
        prompt = tuple(range(3, 23))
        requests = [SampleRequest(prompt, seed, 1, 30) for seed in range(TOGETHER)]
        samples = pair.vllm.sample(requests, pair.endless)
        assert len(samples) == TOGETHER
        assert len(set(samples)) == 1
        assert pair.vllm.prefilled - read == len(prompt)
