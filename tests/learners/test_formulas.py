"""Every formula against values worked out by hand, or by another road."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rftt import Verdict
from rftt.learners.credit import discounted_returns, group_mean, whiten
from rftt.learners.losses import clipped_policy_loss, k1, k2, k3, token_mean
from rftt.learners.reinforce import step_rewards

floats = st.floats(-5, 5, width=32)


def _batch(*sequences: list[float]) -> torch.Tensor:
    return torch.tensor(sequences)


def test_returns_by_hand() -> None:
    # 1 + 0.5 * (2 + 0.5 * 4) = 3; 2 + 0.5 * 4 = 4
    assert discounted_returns(_batch([1.0, 2.0, 4.0]), 0.5).tolist() == [[3.0, 4.0, 4.0]]


@given(st.lists(floats, min_size=1, max_size=6), st.sampled_from([1.0, 0.9, 0.0]))
def test_returns_are_the_discounted_sums(rewards: list[float], gamma: float) -> None:
    expected = [
        sum(gamma ** (k - t) * rewards[k] for k in range(t, len(rewards))) for t in range(len(rewards))
    ]
    assert discounted_returns(_batch(rewards), gamma)[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_reinforce_pp_with_gamma_one_is_outcome_minus_kl_to_go() -> None:
    # arXiv 2501.03262: A_t = R - beta * sum_{i >= t} KL_i; here R = 1, beta = 0.1, KL = 3, 2, 1.
    rewards = _batch([-0.3, -0.2, -0.1]) + _batch([0.0, 0.0, 1.0])
    assert discounted_returns(rewards)[0].tolist() == pytest.approx([1 - 0.6, 1 - 0.3, 1 - 0.1])


def test_group_mean_by_hand() -> None:
    values = _batch([1.0, 2.0, 9.0], [3.0, 5.0, 7.0])
    groups = torch.tensor([[0, 1, -1], [0, 2, -1]])
    assert group_mean(values, groups).tolist() == [[2.0, 2.0, 9.0], [2.0, 5.0, 7.0]]
    assert group_mean(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 1, 1])).tolist() == [1.0, 4.0, 4.0]


@given(st.lists(st.tuples(floats, st.integers(-1, 3)), min_size=1, max_size=8))
def test_group_mean_keeps_the_sum_of_each_group(pairs: list[tuple[float, int]]) -> None:
    values, groups = torch.tensor([v for v, _ in pairs]), torch.tensor([g for _, g in pairs])
    means = group_mean(values, groups)
    assert torch.equal(means[groups < 0], values[groups < 0])
    for group in range(4):
        members = groups == group
        assert len(means[members].unique()) <= 1
        torch.testing.assert_close(means[members].sum(), values[members].sum(), atol=1e-4, rtol=1e-4)


def test_whiten_by_hand() -> None:
    # 1, 3, 5: mean 3, population variance 8/3
    mask = torch.tensor([[True, True], [False, True]])
    result = whiten(_batch([1.0, 3.0], [100.0, 5.0]), mask, eps=0.0)
    s = math.sqrt(8 / 3)
    assert result.flatten().tolist() == pytest.approx([-2 / s, 0.0, 0.0, 2 / s])


def test_scaling_without_centring_by_hand() -> None:
    # 3 and 4: mean square 12.5; 0 stays 0
    mask = torch.ones(1, 2, dtype=torch.bool)
    result = whiten(_batch([3.0, 4.0]), mask, centre=False, eps=0.0)
    assert result[0].tolist() == pytest.approx([3 / 12.5**0.5, 4 / 12.5**0.5])


@given(st.lists(floats, min_size=2, max_size=8), st.data())
def test_whitened_has_mean_0_and_variance_1_and_is_0_where_masked(
    values: list[float], data: st.DataObject
) -> None:
    mask = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    result = whiten(_batch(values), torch.tensor([mask]))[0]
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
    assert not whiten(torch.full((1, count), value), torch.ones(1, count, dtype=torch.bool)).any()


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "expected"),
    [
        (0.0, 2.0, -2.0),
        (math.log(1.5), 1.0, -1.2),  # above the clip, good: no more to gain than 1.2
        (math.log(1.5), -1.0, 1.5),  # above the clip, bad: the full price
        (math.log(0.5), 1.0, -0.5),
        (math.log(0.5), -1.0, 0.8),
    ],
)
def test_clipped_loss_by_hand(log_ratio: float, advantage: float, expected: float) -> None:
    loss = clipped_policy_loss(_batch([log_ratio]), _batch([0.0]), _batch([advantage]), clip_epsilon=0.2)
    assert float(loss) == pytest.approx(expected)


def test_clipped_loss_has_no_gradient_beyond_the_clip() -> None:
    for advantage, gradient in ((1.0, 0.0), (-1.0, 1.5)):
        log_probs = _batch([math.log(1.5)]).requires_grad_()
        clipped_policy_loss(log_probs, _batch([0.0]), _batch([advantage]), 0.2).sum().backward()
        assert float(log_probs.grad) == pytest.approx(gradient)  # type: ignore[arg-type]


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


def test_token_mean_adds_up_over_parts() -> None:
    values, mask = torch.rand(4, 5), torch.rand(4, 5) > 0.4
    count = int(mask.sum())
    full = token_mean(values, mask, count)
    parts = token_mean(values[:1], mask[:1], count) + token_mean(values[1:], mask[1:], count)
    torch.testing.assert_close(full, values[mask].mean())
    torch.testing.assert_close(parts, full)


def test_step_rewards_by_hand() -> None:
    assert step_rewards(Verdict(1.0), 3, 0.6) == [0.0, 0.0, 1.0]
    # 0.6 * 1 + 0.4 * 0.5 = 0.8
    assert step_rewards(Verdict(1.0, step_scores=(0.1, 0.9, 0.5)), 3, 0.6) == pytest.approx(
        [0.1, 0.9, 0.8]
    )
    with pytest.raises(ValueError, match="abstained"):
        step_rewards(Verdict(None), 3, 0.6)
    with pytest.raises(ValueError, match="scores 1 steps; the path has 2"):
        step_rewards(Verdict(1.0, step_scores=(1.0,)), 2, 0.6)
