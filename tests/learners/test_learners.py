"""Learners on real trees of a real (tiny) model: what must not change the loss, and what must."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from functools import cache

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rftt import (
    MCTS,
    BestOfN,
    Budget,
    Experience,
    FunctionalPolicy,
    Learner,
    LossOutput,
    Problem,
    ReinforcePlusPlus,
    SearchConfig,
    SearchTree,
    State,
    Step,
    SupervisedLearner,
    Verdict,
    Verifier,
    run_search,
)  # fmt: skip
from rftt.learners.experience import TokenSequence, pad_sequences
from rftt.samplers.sampling import SamplingParams
from tests.models import functional_policy


class _CountsSteps(Verifier):
    """Scores 1 for an even number of steps; abstains on one step."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        counts = [len(state.steps) for state in states]
        return [Verdict(None if n == 1 else float(n % 2 == 0)) for n in counts]


@cache
def _searched() -> tuple[FunctionalPolicy, tuple[SearchTree, ...]]:
    policy = functional_policy()
    problems = [Problem(f"p{i}", f"{i}+3", "1") for i in range(3)]
    config = SearchConfig(Budget(rollouts=6), max_tokens=60)
    trees = run_search(problems, MCTS(expansion="sample", width=2), policy, _CountsSteps(), config)
    assert any(len(set(tree.parent)) > 4 for tree in trees)
    return policy, tuple(trees)


def _model(policy: FunctionalPolicy) -> torch.nn.Module:
    model: torch.nn.Module = policy.sampler.model  # type: ignore[attr-defined]
    return model


def _learner(**settings: object) -> ReinforcePlusPlus:
    policy, _ = _searched()
    torch.manual_seed(5)
    reference = copy.deepcopy(_model(policy))
    for parameter in reference.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return ReinforcePlusPlus(policy, reference, **settings)  # type: ignore[arg-type]


def _gradient(
    learner: Learner, parts: list[Experience], model: torch.nn.Module | None = None
) -> tuple[float, torch.Tensor]:
    model = model or _model(_searched()[0])
    model.zero_grad()
    total = 0.0
    for part in parts:
        output = learner.loss(model, part)  # type: ignore[arg-type]
        output.loss.backward()
        total += float(output.loss.detach())
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("group_baseline", [False, True])
def test_padding_splitting_and_order_leave_loss_and_gradient_unchanged(group_baseline: bool) -> None:
    learner = _learner(group_baseline=group_baseline, kl_coef=0.1)
    batch = learner.experience(_searched()[1])
    loss, gradient = _gradient(learner, [batch])
    assert gradient.abs().max() > 1e-4
    wide = attrs.evolve(
        batch,
        **{
            f.name: torch.nn.functional.pad(value, (0, 7))
            for f in attrs.fields(Experience)
            if isinstance(value := getattr(batch, f.name), torch.Tensor)
        },
    )
    shuffled = batch.select(torch.randperm(len(batch)))
    for other in ([wide], [shuffled], list(batch.micro_batches(100)), list(batch.micro_batches(10_000))):
        other_loss, other_gradient = _gradient(learner, other)
        assert other_loss == pytest.approx(loss, abs=1e-5)
        torch.testing.assert_close(other_gradient, gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("reference_device", ["cpu", "cuda"])
def test_a_gpu_gives_the_same_loss_and_gradient(reference_device: str) -> None:
    policy, trees = _searched()
    learner = _learner(kl_coef=0.1)
    loss, gradient = _gradient(learner, [learner.experience(trees)])
    learner.reference.to(reference_device)  # type: ignore[union-attr]
    batch = learner.experience(trees).to(torch.device("cuda"))
    on_gpu = _gradient(learner, [batch], copy.deepcopy(_model(policy)).to("cuda"))
    assert on_gpu[0] == pytest.approx(loss, abs=1e-5)
    torch.testing.assert_close(on_gpu[1].cpu(), gradient, atol=1e-5, rtol=1e-3)


def test_the_first_ratio_is_one() -> None:
    learner = _learner(kl_coef=0.0)
    batch = learner.experience(_searched()[1])
    output: LossOutput = learner.loss(_model(_searched()[0]), batch)  # type: ignore[arg-type]
    # With ratio 1 the loss is minus the mean advantage, which whitening makes 0.
    assert float(output.loss.detach()) == pytest.approx(0.0, abs=1e-4)
    assert output.metrics["clip_fraction"] == 0.0


def test_each_sampled_token_of_a_tree_counts_once_and_forced_ones_never() -> None:
    policy, trees = _searched()
    batch = _learner().experience(trees)
    judged = {
        (t, n)
        for t, tree in enumerate(trees)
        for end in tree.ends()
        if (v := tree.verdict[end]) is not None and v.score is not None
        for n in tree.path(end)
    }
    sampled = sum(sum(trees[t].step[n].action_mask) for t, n in judged)  # type: ignore[union-attr]
    assert batch.action_count == int(batch.action_mask.sum()) == sampled
    assert not batch.advantages[~batch.action_mask].any()
    config = SearchConfig(Budget(rollouts=4), max_tokens=40)
    forced = run_search([Problem("f", "1+1", "1")], MCTS(), policy, _CountsSteps(), config)
    for end in forced[0].ends():
        forced[0].verdict[end] = Verdict(1.0)
    drawn = [step.action_mask[0] for tree in forced for step in tree.step if step is not None]
    assert not all(drawn)
    batch = _learner().experience(forced)
    opened = list(policy.tokens.openers.values())
    openers = torch.isin(batch.ids, torch.tensor(opened)) & batch.action_mask
    assert int(openers.sum()) <= sum(drawn)


def _tree(
    paths: Sequence[tuple[list[int], Verdict | float | None]],
    policy: FunctionalPolicy,
    name: str = "h",
) -> SearchTree:
    """A tree of independent one-step paths with given bodies and scores or verdicts; with ``None``, the
    budget cut the path and it was not judged."""
    tree = SearchTree(Problem(name, "1+1", "2"), policy.grammar)
    for body, scored in paths:
        ids = (policy.tokens.openers["next_step"], *body)
        n = len(ids)
        step = Step(
            "next_step", "", ids, (-1.0,) * n, (True,) * n, terminal=True, truncated=scored is None
        )
        node = tree.attach(0, step)
        verdict = Verdict(scored) if isinstance(scored, float) else scored
        tree.verdict[node] = verdict
        tree.backup(node, verdict.score if verdict else None)
    return tree


ABSTAINED = Verdict(None, reason="the server is down")


def test_advantages_by_hand() -> None:
    policy, _ = _searched()
    learner = ReinforcePlusPlus(policy, _model(policy), kl_coef=0.0)  # type: ignore[arg-type]
    batch = learner.experience(
        [_tree([([5], 1.0), ([6, 7, 8], 0.0), ([9], None), ([4], ABSTAINED)], policy)]
    )
    # Two tokens of return 1 and four of return 0: mean 1/3, variance 2/9.
    s = (2 / 9) ** 0.5
    assert len(batch) == 2, "what was not judged, and what was abstained on, is no failure"
    assert batch.advantages[batch.action_mask].tolist() == pytest.approx(
        [2 / 3 / s] * 2 + [-1 / 3 / s] * 4, rel=1e-4
    )


def test_groups_of_equal_reward_teach_nothing() -> None:
    policy, _ = _searched()
    learner = ReinforcePlusPlus(policy, _model(policy), kl_coef=0.0, group_baseline=True)  # type: ignore[arg-type]
    right = _tree([([5], 1.0), ([6], 1.0)], policy)
    wrong = _tree([([5], 0.0), ([6, 7], 0.0)], policy)
    mixed = _tree([([5], 1.0), ([6, 7, 8], 0.0)], policy)
    assert not learner.experience([right, wrong]).advantages.any()
    batch = learner.experience([right, wrong, mixed])
    assert len(batch) == 2, "only the mixed group is left"
    # It is +1/2 on two tokens and -1/2 on four, and the root of the mean square of those is 1/2.
    values = batch.advantages[batch.action_mask].tolist()
    assert values == pytest.approx([1.0] * 2 + [-1.0] * 4, rel=1e-4)


def test_kl_lowers_the_reward_of_tokens_the_reference_finds_unlikely() -> None:
    policy, _ = _searched()
    learner = _learner(kl_coef=0.5)
    tree = _tree([([5, 6, 7], 1.0)], policy)
    batch = learner.experience([tree])
    gap = (batch.log_probs - batch.reference_log_probs)[0][batch.action_mask[0]].double()
    returns = 1.0 - 0.5 * gap.flip(0).cumsum(0).flip(0)
    expected = (returns - returns.mean()) / returns.var(unbiased=False).sqrt()
    torch.testing.assert_close(
        batch.advantages[batch.action_mask].double(), expected, atol=1e-4, rtol=1e-4
    )


def test_one_path_tree_is_a_plain_sequence() -> None:
    policy = functional_policy()
    config = SearchConfig(Budget(rollouts=1), max_tokens=30)
    (tree,) = run_search([Problem("p", "1+3", "4")], BestOfN(), policy, _CountsSteps(), config)
    tree.verdict[next(tree.ends())] = Verdict(1.0)
    batch = _learner().experience([tree])
    ids = [i for step in tree.step if step is not None for i in step.ids]
    assert batch.ids[0].tolist() == [*policy.context(State(tree.problem)), *ids]
    assert int(batch.action_mask.sum()) == len(ids)


def test_a_policy_that_gives_ids_no_probability_is_refused() -> None:
    policy = functional_policy(temperature=0.0)
    assert policy.sampling_params == SamplingParams(temperature=0.0)
    with pytest.raises(ValueError, match=r"temperature=0\.0.*no ratio to learn from"):
        ReinforcePlusPlus(policy, _model(policy))  # type: ignore[arg-type]


def test_supervised_loss_is_the_mean_negative_log_likelihood() -> None:
    policy, trees = _searched()
    learner = SupervisedLearner(policy)
    solutions = [
        {"ids": [3, 4, 5, 6], "action_mask": [False, True, False, True]},
        {"ids": [3, 9], "action_mask": [False, True]},
    ]
    batch = learner.collate(solutions)
    model = _model(policy)
    with torch.no_grad():
        long, short = (model(torch.tensor([r["ids"]])).logits[0].log_softmax(-1) for r in solutions)
    expected = -(long[0, 4] + long[2, 6] + short[0, 9]) / 3
    assert float(learner.loss(model, batch).loss) == pytest.approx(float(expected), abs=1e-5)  # type: ignore[arg-type]
    right = [end for t in trees for end in t.ends() if (v := t.verdict[end]) and v.score == 1.0]
    assert len(learner.experience(trees)) == len(right) > 0


def test_nothing_to_learn_is_said() -> None:
    policy, _ = _searched()
    unjudged = _tree([([5], None), ([6], ABSTAINED)], policy)
    with pytest.raises(ValueError, match="no rollout in 1 trees was judged"):
        _learner().experience([unjudged])
    with pytest.raises(ValueError, match="no path in 1 trees"):
        SupervisedLearner(policy).experience([unjudged])


def _logged(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    records = [(r.levelno, r.getMessage()) for r in caplog.records if r.name.startswith("rftt")]
    caplog.clear()
    return records


def test_what_is_left_out_is_logged_in_numbers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rftt")
    policy, _ = _searched()
    model = _model(policy)
    full = _tree([([5], 1.0), ([6], 0.0)], policy, "full")
    cut = _tree([([5], 1.0), ([6], 0.0), ([7], None), ([8], None)], policy, "cut")
    abstained = _tree([([5], 1.0), ([6], 0.5), ([7], ABSTAINED)], policy, "abstained")
    equal = _tree([([5], 1.0), ([6], 1.0), ([7], 1.0)], policy, "equal")
    reinforce = ReinforcePlusPlus(policy, model, group_baseline=True)  # type: ignore[arg-type]

    reinforce.experience([full])
    assert _logged(caplog) == []
    reinforce.experience([full, cut])
    assert _logged(caplog) == [
        (
            logging.INFO,
            "left out 2 of 6 rollouts: 2 without a verdict, 0 on which the verifier abstained",
        )
    ]
    reinforce.experience([full, abstained, equal])
    assert _logged(caplog) == [
        (
            logging.WARNING,
            "left out 1 of 8 rollouts: 0 without a verdict, 1 on which the verifier abstained",
        ),
        (
            logging.INFO,
            "left out 1 of 3 groups (3 of 7 sequences): all their rollouts have the same reward",
        ),
    ]
    reinforce.experience([equal])
    assert _logged(caplog) == [
        (logging.WARNING, "all rollouts have the same reward in each of 1 groups: advantages are 0")
    ]
    SupervisedLearner(policy).experience([cut, abstained])
    assert _logged(caplog) == [
        (
            logging.WARNING,
            "left out 3 of 7 rollouts: 2 without a verdict, 1 on which the verifier abstained",
        ),
        (logging.INFO, "left out 2 of 4 scored paths: their score is below 1"),
    ]


def test_sequences_without_an_action_are_left_out_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "rftt")
    sequences = [
        TokenSequence([3, 4, 5], [False, True, True]),
        TokenSequence([3, 4], [False, False]),
        TokenSequence([3, 6], [False, True]),
    ]
    micro_batches = list(pad_sequences(sequences).micro_batches(100))
    assert [batch.ids.tolist() for batch in micro_batches] == [[[3, 6, 0], [3, 4, 5]]]
    assert _logged(caplog) == [(logging.INFO, "left out 1 of 3 sequences: they have no action")]
    assert len(list(pad_sequences(sequences[::2]).micro_batches(100))) == 1
    assert _logged(caplog) == []


@settings(max_examples=25)
@given(st.integers(1, 400))
def test_micro_batches_hold_every_sequence_once(max_tokens: int) -> None:
    batch = _learner().experience(_searched()[1])
    parts = list(batch.micro_batches(max_tokens))
    assert sum(int(p.action_mask.sum()) for p in parts) == batch.action_count
    assert all(len(p) * p.ids.shape[1] <= max_tokens or len(p) == 1 for p in parts)
