"""Every formula of the loss against values worked out by hand, or by another road."""

from __future__ import annotations

import math

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rftt.learners.experience import BatchTotals, Experience, TokenSequence, pad_sequences
from rftt.learners.loss.aggregation import ConstantLength, sequence_mean, token_mean
from rftt.learners.loss.correction import ImportanceCorrection, mismatch_metrics
from rftt.learners.loss.kl import KLPenalty, k1, k2, k3
from rftt.learners.loss.objectives import CISPO, Clipped, plain
from rftt.learners.loss.ratios import sequence_ratio, token_ratio
from rftt.learners.loss.whitening import moments, whiten

floats = st.floats(-5, 5, width=32)


def _batch(*sequences: list[float]) -> torch.Tensor:
    return torch.tensor(sequences)


def _experience(lengths: list[int], counts: list[float] | None = None) -> Experience:
    """A batch of a question of one id and so many actions a row, with old log-probabilities -1."""
    return pad_sequences(
        [
            TokenSequence([3] * (n + 1), [False] + [True] * n, [0.0] + [-1.0] * n, count=count)
            for n, count in zip(lengths, counts or [1.0] * len(lengths), strict=True)
        ]
    )


# -- whitening ------------------------------------------------------------------------------------


def test_whiten_by_hand() -> None:
    # 1, 3, 5: mean 3, population variance 8/3
    weights = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    result = whiten(_batch([1.0, 3.0], [100.0, 5.0]), weights, eps=0.0)
    s = math.sqrt(8 / 3)
    assert result.flatten().tolist() == pytest.approx([-2 / s, 0.0, 0.0, 2 / s])


def test_a_weight_counts_as_so_many_values() -> None:
    # 1 twice and 4 once: mean 2, population variance 2
    mean, variance = moments(_batch([1.0, 4.0]), _batch([2.0, 1.0]))
    assert (mean, variance) == pytest.approx((2.0, 2.0))
    assert moments(torch.zeros(0, 0), torch.zeros(0, 0)) == (0.0, 0.0)


@given(st.lists(floats, min_size=2, max_size=8), st.data())
def test_whitened_has_mean_0_and_variance_1_and_is_0_where_masked(
    values: list[float], data: st.DataObject
) -> None:
    mask = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    result = whiten(_batch(values), torch.tensor([mask]).float())[0]
    assert all(v == 0.0 for v, used in zip(result.tolist(), mask, strict=True) if not used)
    used = result[torch.tensor(mask)]
    assert torch.isfinite(used).all()
    if len(used) and used.any():
        assert float(used.mean()) == pytest.approx(0, abs=1e-3)
        # What is added to the variance, against division by 0, counts where that is small.
        variance = float(torch.tensor(values)[torch.tensor(mask)].double().var(unbiased=False))
        assert float(used.square().mean()) == pytest.approx(variance / (variance + 1e-8), abs=1e-3)


@given(st.floats(-1e3, 1e3, width=32), st.integers(1, 9))
def test_equal_values_whiten_to_zero_never_nan(value: float, count: int) -> None:
    assert not whiten(torch.full((1, count), value), torch.ones(1, count)).any()


# -- ratios ---------------------------------------------------------------------------------------


def test_ratios_by_hand() -> None:
    batch = _experience([2, 1])
    new = _batch([0.0, -0.5, -2.0], [0.0, -0.7, 9.0])
    # Old log-probabilities are -1: differences 0.5 and -1 in the first row, 0.3 in the second.
    expected = torch.tensor([[0.0, 0.5, -1.0], [0.0, 0.3, 0.0]])
    torch.testing.assert_close(token_ratio(new, batch), expected)
    # GSPO: the mean over the sequence, at each of its actions.
    mean = torch.tensor([[0.0, -0.25, -0.25], [0.0, 0.3, 0.0]])
    torch.testing.assert_close(sequence_ratio(new, batch), mean)


# -- objectives -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "expected"),
    [
        (0.0, 2.0, -2.0),
        (math.log(1.5), 1.0, -1.28),  # above the clip, good: no more to gain than 1.28
        (math.log(1.5), -1.0, 1.5),  # above the clip, bad: the full price
        (math.log(0.5), 1.0, -0.5),
        (math.log(0.5), -1.0, 0.8),
    ],
)
def test_clipped_by_hand(log_ratio: float, advantage: float, expected: float) -> None:
    loss = Clipped(0.2, 0.28)(_batch([log_ratio]), _batch([advantage]))
    assert float(loss) == pytest.approx(expected)


@given(floats, floats)
def test_the_gradient_is_gone_exactly_where_is_clipped_says(log_ratio: float, advantage: float) -> None:
    objective = Clipped(0.2, 0.28)
    x = _batch([log_ratio]).requires_grad_()
    objective(x, _batch([advantage])).sum().backward()
    clipped = bool(objective.is_clipped(_batch([log_ratio]), _batch([advantage])))
    assert x.grad is not None
    expected = 0.0 if clipped else -math.exp(log_ratio) * advantage
    assert float(x.grad) == pytest.approx(expected, rel=1e-4, abs=1e-12)


def test_cispo_by_hand() -> None:
    # Ratio 1.5 with a cap of 1.28: the weight is 1.28, and the gradient stays 1.28 * A.
    x = _batch([math.log(1.5), math.log(0.1)]).requires_grad_()
    loss = CISPO(high=0.28)(x, _batch([2.0, -1.0]))
    assert loss[0].tolist() == pytest.approx([-1.28 * 2 * math.log(1.5), 0.1 * math.log(0.1)])
    loss.sum().backward()
    assert x.grad is not None
    assert x.grad[0].tolist() == pytest.approx([-2.56, 0.1])


@given(floats)
def test_every_objective_has_the_policy_gradient_where_the_ratio_is_one(advantage: float) -> None:
    for objective in (plain, Clipped(), CISPO()):
        x = torch.zeros(1, 1, requires_grad=True)
        objective(x, _batch([advantage])).sum().backward()
        assert x.grad is not None
        assert float(x.grad) == pytest.approx(-advantage)


# -- aggregation ----------------------------------------------------------------------------------


def test_aggregations_by_hand() -> None:
    batch = _experience([2, 1], counts=[1.0, 3.0])
    values = _batch([9.0, 1.0, 2.0], [9.0, 4.0, 9.0]) * batch.action_mask
    # The second row stands for three rollouts: (1 + 2 + 3 * 4) / (2 + 3 * 1)
    assert float(token_mean(values, batch)) == pytest.approx(15 / 5)
    # (3 / 2 + 3 * 4) / 4
    assert float(sequence_mean(values, batch)) == pytest.approx(13.5 / 4)
    assert float(ConstantLength(10)(values, batch)) == pytest.approx(15 / 40)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.data())
def test_parts_of_a_batch_add_up_to_it(lengths: list[int], data: st.DataObject) -> None:
    batch = _experience(lengths)
    values = torch.rand(batch.ids.shape) * batch.action_mask
    first = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    )
    for aggregation in (token_mean, sequence_mean, ConstantLength(7)):
        parts = 0.0
        for rows in (first.nonzero()[:, 0], (~first).nonzero()[:, 0]):
            part = batch.select(rows)
            parts += float(aggregation(values[rows, : part.ids.shape[1]], part))
        assert parts == pytest.approx(float(aggregation(values, batch)), abs=1e-5)


def test_an_empty_batch_gives_zero_never_nan() -> None:
    empty = pad_sequences([])
    assert empty.totals == BatchTotals(0.0, 0.0, 0.0)
    for aggregation in (token_mean, sequence_mean, ConstantLength(7)):
        assert float(aggregation(torch.zeros(0, 0), empty)) == 0.0


# -- KL -------------------------------------------------------------------------------------------


def test_kl_estimators_by_hand() -> None:
    # log ratio ln 2: k1 = ln 2, k2 = (ln 2)^2 / 2, k3 = 1/2 - 1 + ln 2
    x = _batch([math.log(2)])
    assert float(k1(x)) == pytest.approx(0.6931471805599453)
    assert float(k2(x)) == pytest.approx(0.2402265069591007)
    assert float(k3(x)) == pytest.approx(0.1931471805599453)


@given(
    st.lists(st.floats(0.05, 1), min_size=2, max_size=5),
    st.lists(st.floats(0.05, 1), min_size=5, max_size=5),
)
def test_k1_and_k3_have_the_kl_as_their_mean(p: list[float], q: list[float]) -> None:
    policy = torch.tensor(p, dtype=torch.float64) / sum(p)
    reference = torch.tensor(q[: len(p)], dtype=torch.float64) / sum(q[: len(p)])
    log_ratio = (policy / reference).log()[None]
    kl = float(torch.nn.functional.kl_div(reference.log(), policy, reduction="sum"))
    assert float((policy * k1(log_ratio)[0]).sum()) == pytest.approx(kl, abs=1e-9)
    assert float((policy * k3(log_ratio)[0]).sum()) == pytest.approx(kl, abs=1e-9)
    assert (k3(log_ratio) >= 0).all()


def test_k2_has_the_gradient_of_the_kl() -> None:
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    log_probs = logits.log_softmax(0)
    (by_kl,) = torch.autograd.grad((log_probs.exp() * (log_probs - reference.log())).sum(), logits)
    log_probs = logits.log_softmax(0)
    estimate = (log_probs.exp().detach() * k2((log_probs - reference.log())[None])[0]).sum()
    (by_k2,) = torch.autograd.grad(estimate, logits)
    torch.testing.assert_close(by_k2, by_kl)


def test_functional_tokens_have_a_coefficient_of_their_own() -> None:
    functional = torch.tensor([[True, False]])
    penalty = KLPenalty(0.1, "k1", functional_coef=0.5)(_batch([2.0, 2.0]), functional)
    assert penalty[0].tolist() == pytest.approx([1.0, 0.2])
    assert KLPenalty(0.1, "k1")(_batch([2.0, 2.0]), functional, 3.0)[0].tolist() == pytest.approx(
        [0.6] * 2
    )


def test_the_adaptive_coefficient_by_hand() -> None:
    # Ziegler et al. 2019: twice the target is an error of 1, clipped to 0.2; 256 of 10,000 rollouts.
    kl = KLPenalty(0.1, target=0.05)
    assert kl.adapted(1.0, 0.1, 256.0) == pytest.approx(1 + 0.2 * 0.0256)
    assert kl.adapted(2.0, 0.045, 256.0) == pytest.approx(2 * (1 - 0.1 * 0.0256))
    assert KLPenalty(0.1).adapted(1.0, 9.0, 256.0) == 1.0


# -- importance correction --------------------------------------------------------------------------


def test_corrections_by_hand() -> None:
    mismatch = _batch([0.0, math.log(3.0), math.log(0.25), 0.0])
    mask = torch.tensor([[False, True, True, True]])
    truncated = ImportanceCorrection(high=2.0)(mismatch, mask)
    assert truncated[0].tolist() == pytest.approx([0.0, 2.0, 0.25, 1.0])
    masked = ImportanceCorrection(mode="mask", low=0.5, high=2.0)(mismatch, mask)
    assert masked[0].tolist() == pytest.approx([0.0, 0.0, 0.0, 1.0])
    # The product over the sequence is 3 / 4.
    sequence = ImportanceCorrection("sequence", high=2.0)(mismatch, mask)
    assert sequence[0].tolist() == pytest.approx([0.0, 0.75, 0.75, 0.75])


def test_mismatch_metrics_by_hand() -> None:
    metrics = mismatch_metrics(torch.tensor([math.log(2.0), 0.0]))
    assert metrics["mismatch"] == pytest.approx(math.log(2) / 2)
    assert metrics["mismatch_max"] == pytest.approx(math.log(2))
    assert metrics["mismatch_kl"] == pytest.approx((1 - math.log(2)) / 2)


def test_padding_says_what_no_sequence_says() -> None:
    batch = pad_sequences(
        [
            TokenSequence(
                [5, 6, 7], [False, True, True], [0.0, -1.0, -2.0], [0.0, 0.5, 0.5], [0, 2, 2], 2.0
            ),
            TokenSequence([5, 8], [False, True]),
        ]
    )
    assert batch.weights.tolist() == [[0, 2, 2], [0, 1, 0]]
    assert batch.advantages.tolist() == [[0, 0.5, 0.5], [0, 1, 0]]
    assert batch.log_probs.tolist() == [[0, -1, -2], [0, 0, 0]]
    assert batch.totals == BatchTotals(actions=5.0, functional_actions=0.0, sequences=3.0)
    assert attrs.evolve(batch).select(torch.tensor([1])).totals == batch.totals, "parts keep them"
    with pytest.raises(ValueError, match="sequence 0: its first id is an action"):
        pad_sequences([TokenSequence([5], [True])])
