"""Learners keep their promises, and each promise is one that a learner can break and be caught."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from random import Random

import pytest
import torch

from rftt import MCTS, Budget, Expansion, Searcher, SearchTree, Verdict
from rftt.learners.credit.outcome import group_outcome
from rftt.learners.credit.paths import Credit
from rftt.learners.credit.policy_weighted import policy_weighted
from rftt.learners.credit.process import group_process
from rftt.learners.credit.rewards import outcome_rewards
from rftt.learners.credit.step_values import step_values
from rftt.learners.learner import TokenPolicy
from rftt.learners.loss.aggregation import ConstantLength
from rftt.learners.policy_gradient import PolicyGradient
from rftt.learners.presets import (
    CISPO,
    DAPO,
    GRPO,
    GSPO,
    RLOO,
    DrGRPO,
    ReinforcePlusPlus,
    ReinforcePlusPlusBaseline,
)
from rftt.learners.reference import Reference
from rftt.search.strategies import BestOfN
from rftt.testing import LEARNER_PROMISES, PROMISES, ContractViolation, check_learner
from rftt.testing.learner.direction import early_ends, measure_direction, two_steps
from rftt.testing.learner.workbench import Build, Workbench
from tests.testing import broken_learners as broken

BROKEN: list[tuple[Build, str]] = [
    (broken.LearnsNothing, "learns"),
    (broken.Dropout, "repeatable"),
    (broken.TrainMode, "repeatable"),
    (broken.WritesScores, "repeatable"),
    (broken.LearnsForced, "plain sequence"),
    (broken.WhitensPadding, "padding"),
    (broken.WhitensQuestions, "masked places"),
    (broken.CreditEverywhere, "masked places"),
    (broken.RunningMean, "order"),
    (broken.DropsDuplicates, "packing"),
    (broken.OwnDenominator, "micro-batches"),
    (broken.OwnMetrics, "micro-batches"),
    (broken.StaleLogProbs, "ratio"),
    (broken.ForgetsTemperature, "ratio"),
    (broken.ForgetsMasks, "ratio"),
    (broken.TotalsAgainstToGo, "equal rewards"),
    (broken.DividesByStd, "equal rewards"),
    (broken.NoBaseline, "equal rewards"),
    (broken.WantsSomething, "nothing to learn"),
    (broken.TruncatedAreWrong, "not failures"),
    (broken.AcceptsAnything, "non-finite"),
    (broken.RefusesWithoutName, "non-finite"),
    (broken.ForgetsItsState, "state"),
    (broken.SavesAnObject, "state"),
    (broken.NewModules, "modules"),
    (broken.UntrainedModules, "modules"),
    (broken.OffByOne, "policy gradient"),
    (broken.WrongSign, "policy gradient"),
    (broken.IgnoresSign, "policy gradient"),
]

SUM = ConstantLength(1)


def _name(value: object) -> str:
    return getattr(value, "__name__", str(value)).replace(" ", "_")


@pytest.mark.parametrize("build", [broken.RemembersItsState, broken.WithCritic], ids=_name)
def test_right_learners_keep_every_promise(build: Build) -> None:
    check_learner(build)


def dapo(policy: TokenPolicy, reference: Reference) -> PolicyGradient:
    """DAPO whose overlong penalty no rollout reaches."""
    return DAPO(policy, max_tokens=10_000, overlong_buffer=1)


BY_LENGTH = {"policy gradient": "a token of a long rollout weighs less"}
PRESETS: list[tuple[Build, dict[str, str]]] = [
    (ReinforcePlusPlus, {}),
    (ReinforcePlusPlusBaseline, {}),
    (GRPO, BY_LENGTH),
    (DrGRPO, {}),
    (RLOO, {}),
    (GSPO, BY_LENGTH),
    (CISPO, {}),
    (dapo, {}),
]

MCTS_SAMPLES = [MCTS(expansion="sample", width=width) for width in (2, 8)]
SHRINKS = {"policy gradient": "a value that holds the child shrinks with the number of children"}
CREDITS: dict[str, tuple[Credit, list[Searcher], dict[str, str]]] = {
    "none": (partial(group_outcome, baseline="none"), [], {"equal rewards": "has no baseline"}),
    "leave_one_out": (group_outcome, [], {}),
    "process to go": (
        partial(group_process, baseline="to_go", rewards=outcome_rewards),
        [],
        {"equal rewards": "a rollout that has ended has nothing to go"},
    ),
    "policy_weighted": (policy_weighted, MCTS_SAMPLES, {}),
    "vine": (step_values, [], SHRINKS),
    "treerl": (partial(step_values, kind="treerl"), [], SHRINKS),
}
"""Credits, with the searchers besides best-of-n for which they claim no bias."""


@pytest.mark.slow
@pytest.mark.parametrize("name", CREDITS)
def test_credits_keep_every_promise(name: str) -> None:
    credit, searchers, waived = CREDITS[name]
    check_learner(
        lambda policy, _: PolicyGradient(policy, credit, aggregation=SUM),
        searchers=[BestOfN(), *searchers],
        waived=waived,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("build", "waived"), PRESETS, ids=_name)
def test_presets_keep_every_promise(build: Build, waived: dict[str, str]) -> None:
    check_learner(build, waived=waived)


@pytest.mark.parametrize(("build", "promise"), BROKEN, ids=_name)
def test_a_broken_promise_is_named(build: Build, promise: str) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_learner(build)
    assert caught.value.promise == promise
    assert str(caught.value).startswith(f"{promise}: ")
    assert LEARNER_PROMISES[promise] in str(caught.value)


def test_every_promise_is_one_that_a_learner_here_breaks() -> None:
    assert {promise for _, promise in BROKEN} | {"processes"} == LEARNER_PROMISES.keys()
    assert not LEARNER_PROMISES.keys() & PROMISES.keys()


class _SixOfEach(Searcher):
    """Samples six continuations of every path, and drops none."""

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        nodes = [node for node in range(len(tree)) if tree.is_open(node) and not tree.children[node]]
        return [Expansion(node, count=6, until="step") for node in nodes]

    def is_done(self, tree: SearchTree) -> bool:
        return not self.ask(tree, Random(0))


def test_a_step_that_rollouts_share_counts_in_each_of_them() -> None:
    """Six continuations of each first step: where it counts once, little is learned from it."""
    check = partial(
        check_learner,
        searchers=[_SixOfEach()],
        budget=Budget(),
        problems={"two steps": two_steps()},
    )
    check(lambda policy, _: PolicyGradient(policy, policy_weighted, aggregation=SUM))
    with pytest.raises(ContractViolation, match=r"policy gradient: on two steps, .*_SixOfEach"):
        check(broken.SharedOnce)


def test_scored_steps_need_a_baseline_to_go() -> None:
    def total(verdict: Verdict) -> float:
        return math.fsum(verdict.step_scores or ())

    check_learner(broken.ToGoAgainstToGo, reward=total)


def test_the_bias_by_length_is_found_and_can_be_waived() -> None:
    with pytest.raises(ContractViolation) as caught:
        check_learner(GRPO, problems={"early ends": early_ends()})
    assert caught.value.promise == "policy gradient"
    assert re.match(
        r"policy gradient: on early ends, over \d+ trees by BestOfN\(\): the cosine of the gradient "
        r"with the exact policy gradient is 0\.9[67]\d\d \(standard error 0\.00\d\d\)",
        str(caught.value),
    )
    check_learner(GRPO, waived={"policy gradient": "a token of a long rollout weighs less"})
    found = measure_direction(GRPO, two_steps(), BestOfN(), budget=Budget(rollouts=16))
    assert found.cosine > 0.99


@pytest.mark.parametrize(
    "searcher", [MCTS(expansion="sample", width=2), BestOfN()], ids=["MCTS", "BestOfN"]
)
def test_a_direction_is_measured_with_its_error(searcher: MCTS | BestOfN) -> None:
    def build(policy: broken.TokenPolicy, reference: object) -> PolicyGradient:
        return PolicyGradient(policy, policy_weighted, aggregation=SUM)

    found = measure_direction(build, two_steps(), searcher, budget=Budget(rollouts=16))
    assert found.cosine > 0.99
    assert found.flipped < -0.9
    assert 0 < found.error < 0.006
    # What chance costs a right learner is about half of this.
    assert found.noise < 0.006


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no promise 'mask'; there are: learns, "):
        check_learner(broken.Reinforce, waived={"mask": "a slip"})
    with pytest.raises(TypeError, match="can be imported"):
        check_learner(
            lambda policy, _: broken.Reinforce(policy),
            waived={"policy gradient": "not looked at"},
            processes=2,
        )


def test_the_trees_hold_what_promises_are_about() -> None:
    """Forced openers, results of tools, shared steps, several scores, several lengths."""
    bench = Workbench(broken.Reinforce, seed=0)
    trees = bench.trees()
    steps = [step for tree in trees for step in tree.step[1:] if step]
    assert {step.action_mask[0] for step in steps} == {True, False}
    assert any(True in s.action_mask and not s.action_mask[-1] for s in steps)
    assert any(len(tree.children[node]) > 1 for tree in trees for node in range(1, len(tree)))
    assert any(sum(tree.ended) > len(tree.children[0]) for tree in trees)
    scores = {v.score for tree in trees for v in tree.verdict if v}
    assert scores == {0.0, 0.25, 1.0}
    assert len({tree.depth[end] for tree in trees for end in tree.ends()}) > 1
    assert all(len({tree.verdict[e].score for e in tree.ends()}) > 1 for tree in trees[:4])  # type: ignore[union-attr]


@pytest.mark.parametrize("make", [two_steps, early_ends])
def test_problems_are_neither_solved_nor_flat(make: Callable[[], object]) -> None:
    from rftt.testing import FiniteModel, FiniteProblem, expected_reward, policy_gradient

    finite = make()
    assert isinstance(finite, FiniteProblem)
    model = FiniteModel(finite.policy)
    with torch.no_grad():
        assert 0.2 < float(expected_reward(model, finite)) < 0.8
    gradient = policy_gradient(model, finite)
    # More than one prefix matters, or only one direction could be told from another.
    assert (gradient.norm(dim=1) > 0.1 * gradient.norm()).sum() >= 3


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_learn_what_one_learns(processes: int) -> None:
    check_learner(broken.Reinforce, processes=processes)
    check_learner(RLOO, processes=processes)
    with pytest.raises(ContractViolation) as caught:
        check_learner(broken.CountsItsRank, processes=processes)
    assert caught.value.promise == "processes"
