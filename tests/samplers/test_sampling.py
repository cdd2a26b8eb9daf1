"""Temperature, nucleus and minimal probability, against their definitions in plain Python."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import accumulate, cycle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rftt.samplers.sampling import SamplingParams, draw, inverse_cumulative, probabilities
from tests.chi_squared import assert_drawn_from


def _by_definition(logits: list[float], params: SamplingParams) -> list[float]:
    weights = [math.exp(x / params.temperature) for x in logits]
    probs = [w / math.fsum(weights) for w in weights]
    falling = sorted(range(len(probs)), key=lambda i: -probs[i])
    kept, reached = set(), 0.0
    for i in falling:
        if reached < params.top_p:
            kept.add(i)
        reached += probs[i]
    kept = {i for i in kept if probs[i] >= params.min_p * max(probs)}
    mass = math.fsum(probs[i] for i in kept)
    return [probs[i] / mass if i in kept else 0.0 for i in range(len(probs))]


# Steps of a quarter, all different: no ties, and no sums that fall on a bound by rounding alone.
logits_lists = st.lists(st.integers(-20, 20), min_size=1, max_size=8, unique=True).map(
    lambda xs: [x / 4 for x in xs]
)
sampling_params = st.builds(
    SamplingParams,
    st.sampled_from([0.5, 1.0, 1.7]),
    st.sampled_from([0.31, 0.77, 0.93, 1.0]),
    st.sampled_from([0.0, 0.113, 0.487]),
)


@given(logits_lists, sampling_params)
def test_probabilities_are_those_of_the_definition(logits: list[float], params: SamplingParams) -> None:
    row = torch.tensor([logits])
    for allowed in (torch.ones_like(row, dtype=torch.bool), None):
        given_by = probabilities(row, allowed, params)[0].tolist()
        assert given_by == pytest.approx(_by_definition(logits, params), abs=1e-5)


@given(logits_lists, sampling_params, st.data())
def test_what_is_not_allowed_has_no_part_in_it(
    logits: list[float], params: SamplingParams, data: st.DataObject
) -> None:
    allowed = data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits)).filter(any))
    row = probabilities(torch.tensor([logits]), torch.tensor([allowed]), params)[0].tolist()
    alone = _by_definition([x for x, ok in zip(logits, allowed, strict=True) if ok], params)
    assert [p for p, ok in zip(row, allowed, strict=True) if ok] == pytest.approx(alone, abs=1e-5)
    assert not any(p for p, ok in zip(row, allowed, strict=True) if not ok)


def test_greedy_is_the_likeliest_that_is_allowed() -> None:
    row = probabilities(
        torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[False, True, True]]), SamplingParams(0.0)
    )
    assert row[0].tolist() == [0.0, 1.0, 0.0]


def test_a_masked_id_is_never_drawn(device: str) -> None:
    torch.manual_seed(0)
    allowed = torch.arange(64) % 3 != 0
    logits = 3 * torch.randn(1, 64)
    probs = probabilities(logits.to(device), allowed[None].to(device), SamplingParams())
    rows, noise = torch.zeros(100_000, dtype=torch.int64), torch.rand(100_000, dtype=torch.float64)
    drawn = inverse_cumulative(probs, rows.to(device), noise.to(device))
    assert_drawn_from(probs[0].double().tolist(), torch.bincount(drawn, minlength=64).tolist())


def _found(probs: torch.Tensor, rows: list[int], noises: list[float]) -> list[int]:
    noise = torch.tensor(noises, dtype=torch.float64, device=probs.device)
    return inverse_cumulative(probs, torch.tensor(rows, device=probs.device), noise).tolist()


_WEIGHT = st.sampled_from([0.0, 1e-30, 1e-3, 0.5, 1.0, 7.0])


@given(
    st.integers(1, 40).flatmap(
        lambda size: st.lists(
            st.lists(_WEIGHT, min_size=size, max_size=size).filter(any), min_size=1, max_size=3
        )
    ),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2**53 - 1)), min_size=1, max_size=4),
)
def test_the_id_drawn_is_where_the_sum_passes_the_noise(
    device: str, weights: list[list[float]], drawn_from: list[tuple[int, int]]
) -> None:
    table = torch.tensor(weights)
    table /= table.sum(1, keepdim=True)
    rows = [row % len(weights) for row, _ in drawn_from]
    noises = [number / 2**53 for _, number in drawn_from]
    found = _found(table.to(device), rows, noises)
    for row, noise, drawn in zip(rows, noises, found, strict=True):
        probs = [Fraction(p) for p in table[row].tolist()]
        assert probs[drawn] > 0
        below, upto = sum(probs[:drawn]), sum(probs[: drawn + 1])
        mark, slack = Fraction(noise) * sum(probs), Fraction(1, 2**50)
        assert below - slack <= mark <= upto + slack


@pytest.mark.parametrize("spread", [0, 1, 5])
def test_noise_next_to_a_boundary_falls_on_the_right_side_of_it(device: str, spread: int) -> None:
    torch.manual_seed(spread)
    row = (spread * torch.randn(50_001)).softmax(0)
    parts = [Fraction(p) for p in row.tolist()]
    upto = list(accumulate(parts))
    ids = torch.multinomial(row, 200, replacement=True).tolist()
    aside = [sign * 2.0**-power for power in range(15, 50) for sign in (1, -1)]
    noises = [
        min(max(0.0, float(upto[i] / upto[-1]) + by), 1 - 2**-53)
        for i, by in zip(ids, cycle(aside), strict=False)
    ]
    found = _found(row[None].to(device), [0] * len(ids), noises)
    for noise, drawn in zip(noises, found, strict=True):
        mark, slack = Fraction(noise) * upto[-1], Fraction(1, 2**50)
        assert upto[drawn] - parts[drawn] - slack <= mark <= upto[drawn] + slack


@pytest.mark.parametrize(
    "params", [SamplingParams(), SamplingParams(0.0), SamplingParams(0.7, 0.9, 0.001)]
)
def test_a_draw_from_a_large_vocabulary_does_not_depend_on_other_rows(params: SamplingParams) -> None:
    torch.manual_seed(0)
    logits, noise = 3 * torch.randn(13, 50_001), torch.rand(13, dtype=torch.float64)
    allowed = torch.rand(13, 50_001) < 0.9
    together = draw(logits.clone(), allowed, params, noise, torch.arange(13))
    for row in range(13):
        one = slice(row, row + 1)
        ids, log_probs = draw(logits[one], allowed[one], params, noise[one], torch.tensor([0]))
        assert ids.item() == together[0][row].item()
        assert log_probs.item() == pytest.approx(together[1][row].item(), abs=1e-5)


@pytest.mark.parametrize(
    "params", [SamplingParams(), SamplingParams(0.0), SamplingParams(0.7, 0.9, 0.001)]
)
@pytest.mark.parametrize("allowed", [None, torch.arange(50) % 3 > 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_draw_is_from_the_probabilities_wherever_these_are_kept(
    params: SamplingParams, allowed: torch.Tensor | None, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    wide, noise = torch.randn(4, 60).to(dtype), torch.rand(9, dtype=torch.float64)
    before, rows = wide.clone(), torch.arange(9) % 4
    of_rows = None if allowed is None else allowed.expand(4, 50)
    probs = probabilities(wide[:, :50], of_rows, params)
    ids = inverse_cumulative(probs, rows, noise)
    alone = wide[:, :50].contiguous()
    for logits in (wide[:, :50], alone):
        drawn, log_probs = draw(logits, of_rows, params, noise, rows)
        torch.testing.assert_close(drawn, ids, atol=0, rtol=0)
        torch.testing.assert_close(log_probs, probs[rows, ids].log(), atol=0, rtol=0)
    torch.testing.assert_close(wide, before, atol=0, rtol=0)
    left_there = probs if dtype == torch.float32 else before[:, :50]
    torch.testing.assert_close(alone, left_there, atol=0, rtol=0)


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"min_p": 1.1}])
def test_settings_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**wrong)
