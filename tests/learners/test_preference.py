"""Preference pairs from trees, DPO and IPO."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rftt import Budget, Grammar, SearchConfig, SearchTree, Step, Verdict, run_search
from rftt.learners.credit.preference_pairs import PreferencePair, preference_pairs
from rftt.learners.forward.micro_batches import micro_batches
from rftt.learners.preference import PreferenceLearner, dpo_loss, ipo_loss
from rftt.problems.problem import Problem
from rftt.search.strategies import BestOfN
from rftt.testing import FiniteModel, FinitePolicy, FiniteProblem, Reply, finite_problems
from rftt.testing.finite.gradient import expected_reward
from rftt.testing.finite.model import trained_policy
from rftt.testing.learner.check import check_learner
from rftt.tokens.grammar import Function
from tests.models import functional_policy

GRAMMAR = Grammar(
    [Function("think", "think"), Function("end", "end")],
    start=("think", "end"),
    followers={"think": ("think", "end")},
)
TABLE = {
    (): [Reply("think", "a", 0.5), Reply("end", "no", 0.5)],
    ("a",): [Reply("end", "yes", 0.5), Reply("end", "maybe", 0.5)],
}
SCORES = {("no",): 0.25, ("a", "yes"): 1.0, ("a", "maybe"): 0.0}
POLICY = FinitePolicy(GRAMMAR, TABLE)


def _problem() -> FiniteProblem:
    return FiniteProblem(POLICY, {path: Verdict(score) for path, score in SCORES.items()})


def _step(function: str, ids: Sequence[int], mask: Sequence[bool] | None = None) -> Step:
    flags = tuple(mask or [True] * len(ids))
    return Step(function, str(ids), ids, (-1.0,) * len(ids), flags, terminal=function == "end")


def _grow(tree: SearchTree, parent: int, step: Step, score: float | None = None, times: int = 1) -> int:
    node = tree.attach(parent, step)
    if score is not None:
        tree.verdict[node] = Verdict(score)
        for _ in range(times):
            tree.backup(node, score)
    return node


def _tree() -> tuple[SearchTree, dict[str, int]]:
    """Two first steps, one of which was drawn twice, each with two ends::

    good [1]: right [5] 1.0, wrong [6] 0.0 twice
    bad  [2]: wrong [5] 0.0, half [7] 0.5
    good [1] again: right [8] 1.0 twice
    """
    tree = SearchTree(Problem("p", "what?"), GRAMMAR)
    good = _grow(tree, 0, _step("think", [1]))
    right = _grow(tree, good, _step("end", [5]), 1.0)
    wrong = _grow(tree, good, _step("end", [6]), 0.0, times=2)
    bad = _grow(tree, 0, _step("think", [2]))
    low = _grow(tree, bad, _step("end", [5]), 0.0)
    half = _grow(tree, bad, _step("end", [7]), 0.5)
    again = _grow(tree, 0, _step("think", [1]))
    other = _grow(tree, again, _step("end", [8]), 1.0, times=2)
    return tree, {
        "good": good, "right": right, "wrong": wrong, "bad": bad, "low": low, "half": half,
        "again": again, "other": other,
    }  # fmt: skip


def _nodes(pairs: Sequence[PreferencePair]) -> list[tuple[int, int, float]]:
    return [(pair.chosen, pair.rejected, pair.margin) for pair in pairs]


def test_sibling_pairs_by_hand() -> None:
    tree, at = _tree()
    assert _nodes(preference_pairs([tree])) == [
        # (1 + 0 + 0 + 1 + 1) / 5 against 0.5 / 2.
        (at["good"], at["bad"], 0.6 - 0.25),
        (at["right"], at["wrong"], 1.0),
        (at["half"], at["low"], 0.5),
    ]
    assert _nodes(preference_pairs([tree], min_margin=0.5)) == [
        (at["right"], at["wrong"], 1.0),
        (at["half"], at["low"], 0.5),
    ]


def test_path_pairs_by_hand() -> None:
    tree, at = _tree()
    assert _nodes(preference_pairs([tree], pairs="paths")) == [
        # In order: right, other, half, wrong, low.
        (at["right"], at["low"], 1.0),
        (at["other"], at["wrong"], 1.0),
    ]


def test_what_is_not_judged_is_in_no_pair(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rftt")
    tree = SearchTree(Problem("p", "what?"), GRAMMAR)
    _grow(tree, 0, _step("end", [1]), 1.0)
    cut = _grow(tree, 0, attrs.evolve(_step("end", [2]), truncated=True), 0.0)
    stopped = _grow(tree, 0, _step("think", [3]), 0.0)
    assert cut
    assert stopped
    assert preference_pairs([tree]) == []
    forced = _grow(tree, 0, _step("end", [4], [False]), 0.0)
    assert forced
    caplog.clear()
    assert preference_pairs([tree]) == []
    assert "1 with a side that the policy did not draw" in caplog.text
    with pytest.raises(ValueError, match="equals have no better one"):
        preference_pairs([tree], min_margin=0.0)


@given(finite_problems(), st.sampled_from(["siblings", "paths"]), st.integers(0, 99))
def test_a_pair_is_of_one_tree_and_parts_at_one_place(
    problem: FiniteProblem, pairs: Any, seed: int
) -> None:
    config = SearchConfig(Budget(rollouts=8), seed=seed)
    trees = run_search(problem.problems(2), BestOfN(), problem.policy, problem.verifier, config)
    for pair in preference_pairs(trees, pairs=pairs, min_margin=0.01):
        chosen, rejected = pair.tree.state(pair.chosen).steps, pair.tree.state(pair.rejected).steps
        assert pair.margin >= 0.01
        assert [s.ids for s in chosen] != [s.ids for s in rejected]
        if pairs == "siblings":
            assert len(chosen) == len(rejected)
            assert [s.ids for s in chosen[:-1]] == [s.ids for s in rejected[:-1]]


# -- losses ---------------------------------------------------------------------------------------------


def test_losses_and_gradients_by_hand() -> None:
    margins = torch.tensor([0.0, 2.0, -3.0], dtype=torch.float64, requires_grad=True)
    loss = dpo_loss(margins, 0.5)
    expected = [math.log(1 + math.exp(-0.5 * h)) for h in (0.0, 2.0, -3.0)]
    assert loss.tolist() == pytest.approx(expected)
    loss.sum().backward()
    # -beta * sigmoid(-beta * h).
    slopes = [-0.5 / (1 + math.exp(0.5 * h)) for h in (0.0, 2.0, -3.0)]
    assert margins.grad.tolist() == pytest.approx(slopes)  # type: ignore[union-attr]
    smoothed = dpo_loss(margins, 0.5, 0.25)
    flipped = [math.log(1 + math.exp(0.5 * h)) for h in (0.0, 2.0, -3.0)]
    assert smoothed.tolist() == pytest.approx(
        [0.75 * e + 0.25 * f for e, f in zip(expected, flipped, strict=True)]
    )
    margins.grad = None
    ipo = ipo_loss(margins, 0.5)
    assert ipo.tolist() == [1.0, 1.0, 16.0]
    ipo.sum().backward()
    assert margins.grad.tolist() == [-2.0, 2.0, -8.0]


def _models() -> tuple[FiniteModel, FiniteModel]:
    """A model that thinks with probability 3/4, and a reference with 1/2; else as in the table."""
    reference = FiniteModel(POLICY)
    model = copy.deepcopy(reference)
    think = POLICY.ids(TABLE[()][0])[0]
    with torch.no_grad():
        model.table[model.prefixes.index((0,)), think] += math.log(3.0)
    return model, reference


def _finite_tree() -> SearchTree:
    tree = SearchTree(Problem("p", "what is it?"), GRAMMAR)
    a, no = (POLICY.ids(reply) for reply in TABLE[()])
    yes, maybe = (POLICY.ids(reply) for reply in TABLE["a",])
    thought = _grow(tree, 0, _step("think", a))
    _grow(tree, thought, _step("end", yes), 1.0)
    _grow(tree, thought, _step("end", maybe), 0.0)
    _grow(tree, 0, _step("end", no), 0.0)
    return tree


def test_the_loss_of_a_tree_by_hand() -> None:
    model, reference = _models()
    learner = PreferenceLearner(POLICY, reference, beta=0.5)  # type: ignore[arg-type]
    batch = learner.experience([_finite_tree()])
    assert batch.units.tolist() == [0, 0, 1, 1]
    assert batch.action_mask.tolist() == [
        [False, True, False], [False, True, False], [False, False, True], [False, False, True]
    ]  # fmt: skip
    assert batch.totals.sequences == 4
    output = learner.loss(model, batch)
    # think: log 3/4 - log 1/2, no: log 1/4 - log 1/2; the second pair is as the reference has it.
    h = math.log(1.5) - math.log(0.5)
    expected = (math.log(1 + math.exp(-0.5 * h)) + math.log(2.0)) / 2
    assert float(output.loss.detach()) == pytest.approx(expected, abs=1e-6)
    assert output.metrics == pytest.approx(
        {
            "accuracy": 0.5,
            "margin": 0.5 * h / 2,
            "chosen_log_prob": (math.log(0.75) + math.log(0.5)) / 2,
            "rejected_log_prob": (math.log(0.25) + math.log(0.5)) / 2,
        },
        abs=1e-5,
    )
    ipo = PreferenceLearner(POLICY, reference, kind="ipo", beta=0.5)  # type: ignore[arg-type]
    loss = float(ipo.loss(model, batch).loss.detach())
    assert loss == pytest.approx(((h - 1) ** 2 + 1) / 2, abs=1e-5)


def test_a_policy_that_is_its_reference_loses_log_2() -> None:
    model, _ = _models()
    for pairs, number in (("siblings", 2), ("paths", 1)):
        learner = PreferenceLearner(POLICY, copy.deepcopy(model), pairs=pairs)  # type: ignore[arg-type]
        batch = learner.experience([_finite_tree()])
        assert len(batch) == 2 * number
        loss = learner.loss(model, batch).loss
        assert loss == torch.tensor(2.0).log()


def test_nothing_to_compare_is_an_empty_experience() -> None:
    _, reference = _models()
    learner = PreferenceLearner(POLICY, reference)  # type: ignore[arg-type]
    assert len(learner.experience([SearchTree(Problem("p", "what?"), GRAMMAR)])) == 0
    with pytest.raises(ValueError, match="label_smoothing is of DPO"):
        PreferenceLearner(POLICY, reference, kind="ipo", label_smoothing=0.1)  # type: ignore[arg-type]


# -- a real model ---------------------------------------------------------------------------------------


def _real_trees(policy: Any) -> list[SearchTree]:
    """Steps of several tokens, of which siblings share the first."""
    trees = []
    opener, closer = policy.tokens.openers, policy.tokens.closers
    for number in range(3):
        tree = SearchTree(Problem(f"p{number}", f"{number}+1", "2"), policy.grammar)
        first = [
            _grow(
                tree, 0,
                attrs.evolve(
                    _step("x", [opener["analysis"], 3, body, closer["analysis"]]), function="analysis"
                ),
            )
            for body in (4, 5 + number)
        ]  # fmt: skip
        for node, score in zip(first, (1.0, 0.0), strict=True):
            next_step = _step("x", [opener["next_step"], 7, closer["next_step"]])
            node = _grow(tree, node, attrs.evolve(next_step, function="next_step"))
            end = attrs.evolve(_step("end", [opener["output"], 9, closer["output"]]), function="output")
            _grow(tree, node, end, score)
        trees.append(tree)
    return trees


@pytest.mark.parametrize("pairs", ["siblings", "paths"])
def test_splitting_order_and_packing_change_nothing(pairs: Any) -> None:
    policy = functional_policy()
    model = policy.sampler.model  # type: ignore[attr-defined]
    torch.manual_seed(1)
    reference = copy.deepcopy(model)
    for parameter in reference.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    found = []
    for packing in ("tree", "none"):
        learner = PreferenceLearner(policy, reference, pairs=pairs, packing=packing)  # type: ignore[arg-type]
        batch = learner.experience(_real_trees(policy))
        assert len(batch) == 6
        shared = [len(policy.context(tree_state)) + 2 for tree_state in _questions(policy)]
        first = batch.action_mask.float().argmax(1).tolist()
        assert first == [place for place in shared for _ in range(2)], "opener and 3 are shared"
        shuffled = batch.select(torch.tensor([3, 0, 5, 1, 2, 4]))
        for parts in ([batch], [shuffled], list(micro_batches(batch, 16))):
            model.zero_grad()
            total = 0.0
            for part in parts:
                output = learner.loss(model, part)
                output.loss.backward()
                total += float(output.loss.detach())
            found.append((total, torch.cat([p.grad.flatten() for p in model.parameters()])))
        assert len(parts) > 1
    loss, gradient = found[0]
    assert abs(loss - math.log(2.0)) > 1e-4
    for other_loss, other in found[1:]:
        assert other_loss == pytest.approx(loss, abs=1e-5)
        torch.testing.assert_close(other, gradient, atol=1e-5, rtol=1e-3)


def _questions(policy: Any) -> list[Any]:
    return [attrs.evolve(tree.state(0)) for tree in _real_trees(policy)]


def test_a_model_in_half_precision_has_a_loss_in_single_precision() -> None:
    policy = functional_policy()
    model = policy.sampler.model.bfloat16()  # type: ignore[attr-defined]
    learner = PreferenceLearner(policy, copy.deepcopy(model))
    batch = learner.experience(_real_trees(policy))
    output = learner.loss(model, batch)
    assert batch.reference_log_probs.dtype == output.loss.dtype == torch.float32
    assert float(output.loss.detach()) == pytest.approx(math.log(2.0), abs=1e-3)


# -- learning -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dpo", "ipo"])
def test_it_reaches_the_optimum_and_not_with_the_sign_flipped(kind: Any) -> None:
    problem = _problem()
    rewards = {}
    for sign in (1, -1):
        verdicts = {path: Verdict(sign * score) for path, score in SCORES.items()}
        judged = FiniteProblem(POLICY, verdicts)
        model = FiniteModel(POLICY)
        learner = PreferenceLearner(POLICY, copy.deepcopy(model), kind=kind, beta=0.1)  # type: ignore[arg-type]
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        for update in range(40):
            policy = trained_policy(POLICY, model)
            config = SearchConfig(Budget(rollouts=16), seed=update)
            trees = run_search(judged.problems(2), BestOfN(), policy, judged.verifier, config)
            batch = learner.experience(trees)
            if len(batch):
                optimizer.zero_grad()
                learner.loss(model, batch).loss.backward()
                optimizer.step()
        rewards[sign] = float(expected_reward(model, problem).detach())
    assert rewards[1] > 0.9, "the best leaf is worth 1, the policy began at 0.375"
    assert rewards[-1] < 0.2


def test_it_keeps_a_learners_promises() -> None:
    check_learner(
        PreferenceLearner,
        waived={"policy gradient": "it follows preferences, and how much better one is does not count"},
    )
