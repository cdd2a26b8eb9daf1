"""AB-MCTS: what it observes, what it believes, and how it chooses by that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from rftt import Budget, MathVerifier, SearchConfig, resume_search, run_search
from rftt.search.strategies import ABMCTS, BetaPrior, GaussianPrior, MixedModel, NodeAggregation
from rftt.search.strategies.ab_mcts import BranchingRule, Options, Scores
from rftt.search.tree.merge import commit_to
from rftt.testing.finite.tabular import TabularPolicy
from tests.search.scored import search
from tests.strategies import policies, problems

_SCORES = st.lists(st.floats(-3, 3), max_size=6)
NOTHING = Scores()


class Script(BranchingRule):
    """Choose as written down, and keep what was seen."""

    def __init__(self, choices: Sequence[int | None]) -> None:
        self.choices = list(choices)
        self.seen: list[Options] = []

    def choose(self, options: Options, rng: Random) -> int | None:
        self.seen.append(options)
        return self.choices.pop(0)


def test_each_score_is_observed_once_by_gen_or_cont() -> None:
    """Three completions of one step. The first, from the question, makes child a. The second goes on
    from it and makes ab. The third is again from the question, and makes another a.

    At the question GEN has then observed both a (0.2 and 0.2), and CONT what going on from the first
    brought (0.7). The first child has 0.2 and 0.7, the second 0.2.
    """
    rule = Script([0, None, 1])
    searcher = ABMCTS(rule, until="step", scores_partial=True)
    tree = search(
        searcher, {"": {"a": 1.0}, "a": {"ab": 1.0}, "ab": {"end": 1.0}},
        {"a": 0.2, "ab": 0.7, "end": 1.0}, rollouts=4,
    )  # fmt: skip
    # The first ask has no child to choose from, and at a leaf there is no choice either.
    assert tree.parent == [-1, 0, 1, 0, 3]
    assert rule.seen[0] == Options(Scores.of([0.2]), NOTHING, NOTHING, [Scores.of([0.2])])
    assert rule.seen[2] == Options(
        generated=Scores.of([0.2, 0.2]),
        continued=Scores.of([0.7]),
        ended=NOTHING,
        children=[Scores.of([0.2, 0.7]), Scores.of([0.2])],
    )


def test_a_child_that_ended_tells_what_a_new_one_brings_but_is_no_option() -> None:
    rule = Script([])
    tree = search(ABMCTS(rule), {"": {"end": 1.0}}, {"end": 0.5}, rollouts=3)
    assert tree.parent == [-1, 0, 0, 0]
    assert rule.seen == []
    assert tree.memo["ab_mcts"]["ended"][0] == [2, 1.0, 0.5], "at the third ask"


@settings(max_examples=40)
@given(policies(), st.integers(1, 20), st.integers(1, 3), st.integers(0, 9))
def test_what_is_observed_adds_up_to_the_tree(
    policy: TabularPolicy, rollouts: int, at_once: int, seed: int
) -> None:
    searcher = ABMCTS(simulations_per_round=at_once)
    config = SearchConfig(Budget(rollouts=rollouts), seed=seed, max_depth=6)
    (tree,) = run_search(problems(), searcher, policy, MathVerifier(), config)
    searcher.ask(tree, Random(0))
    memo = tree.memo["ab_mcts"]
    for node in range(len(tree)):
        verdict = tree.verdict[node]
        own = 0 if verdict is None or verdict.score is None else 1
        below = memo["generated"][node][0] + memo["continued"][node][0]
        assert own + below == tree.value_count[node]
        if node:
            assert memo["through"][node][:2] == [tree.value_count[node], tree.value_sum[node]]
        sampled = [child for child in tree.children[node] if tree.value_count[child]]
        assert memo["generated"][node][0] == len(sampled)


@settings(max_examples=20)
@given(policies(), st.integers(2, 12), st.integers(0, 9))
def test_a_committed_search_observes_what_is_kept(
    policy: TabularPolicy, rollouts: int, seed: int
) -> None:
    config = SearchConfig(Budget(rollouts=rollouts), seed=seed, max_depth=6)
    (tree,) = run_search(problems(), ABMCTS(), policy, MathVerifier(), config)
    kept = commit_to(tree, 1)
    count = kept.value_count[kept.start]
    more = evolve(config, budget=Budget(rollouts=rollouts + 2))
    resume_search([kept], ABMCTS(), policy, MathVerifier(), more)
    assert all(kept.is_open(n) or n <= kept.start or kept.depth[n] for n in range(len(kept)))
    if kept.rollouts > rollouts:
        assert kept.value_count[kept.start] == count + 2
        assert kept.memo["ab_mcts"]["through"][kept.start][0] >= count


def test_the_gaussian_posterior_by_hand() -> None:
    """Scores 0.5 and 1: n = 2, mean 0.75, spread 2 * 0.25 ** 2 = 0.125. From m = 0, kappa = nu = 1 and
    tau_square = 0.1: kappa = nu = 3, m = 1.5 / 3, and tau_square = (0.1 + 0.125 + 2/3 * 0.75 ** 2) / 3
    = (0.1 + 0.125 + 0.375) / 3 = 0.2."""
    after = GaussianPrior().posterior(Scores.of([0.5, 1.0]))
    assert [after.m, after.kappa, after.nu, after.tau_square] == pytest.approx([0.5, 3, 3, 0.2])


@given(_SCORES, _SCORES)
def test_the_gaussian_posterior_does_not_depend_on_the_order(a: list[float], b: list[float]) -> None:
    at_once = GaussianPrior().posterior(Scores.of(a + b))
    one_by_one = GaussianPrior()
    for score in b + a:
        one_by_one = one_by_one.posterior(Scores.of([score]))
    for name in ("m", "kappa", "nu", "tau_square"):
        assert getattr(at_once, name) == pytest.approx(getattr(one_by_one, name), abs=1e-9)


def _share(hits: int, of: int, expected: float) -> bool:
    """Whether a share is within four standard deviations of what is expected."""
    return abs(hits / of - expected) < 4 * math.sqrt(expected * (1 - expected) / of)


def test_gaussian_draws_are_student_t() -> None:
    # With nu = 2, (mean - m) / sqrt(tau_square / kappa) has the distribution function
    # 1/2 + t / (2 sqrt(2 + t * t)).
    rng, prior, n = Random(0), GaussianPrior(m=0.3, kappa=4.0, nu=2.0, tau_square=0.16), 4000
    draws = [(prior.draw(NOTHING, rng) - 0.3) / 0.2 for _ in range(n)]
    for t in (-2.0, -0.5, 0.0, 1.0, 3.0):
        assert _share(sum(draw < t for draw in draws), n, 0.5 + t / (2 * math.sqrt(2 + t * t)))


def test_beta_draws_have_the_posterior_mean_and_variance() -> None:
    # From Jeffreys' prior, scores 1, 1 and 0.5 give Beta(3, 1): density 3 x ** 2, P(x < t) = t ** 3.
    rng, n = Random(0), 4000
    draws = [BetaPrior().draw(Scores.of([1.0, 1.0, 0.5]), rng) for _ in range(n)]
    for t in (0.3, 0.6, 0.9):
        assert _share(sum(draw < t for draw in draws), n, t**3)


@pytest.mark.parametrize("score", [-0.1, 1.5])
def test_scores_that_no_beta_distribution_has_are_refused(score: float) -> None:
    searcher = ABMCTS(NodeAggregation(BetaPrior()))
    with pytest.raises(ValueError, match=rf"the score {score} is not in \[0, 1\]; use GaussianPrior"):
        search(searcher, {"": {"end": 1.0}}, {"end": score}, rollouts=2)


def test_node_aggregation_goes_wider_as_often_as_it_should() -> None:
    """GEN has observed three ones, CONT nothing. With a flat prior GEN is Beta(4, 1) and CONT uniform,
    so GEN's draw is larger with probability E[Beta(4, 1)] = 4/5. Of two children, the one with three
    ones is likewise chosen in 4/5 of the other cases."""
    rule, rng, n = NodeAggregation(BetaPrior(1.0, 1.0)), Random(0), 4000
    ones = Scores.of([1.0] * 3)
    options = Options(generated=ones, continued=NOTHING, ended=NOTHING, children=[ones, NOTHING])
    chosen = [rule.choose(options, rng) for _ in range(n)]
    assert _share(chosen.count(None), n, 4 / 5)
    assert _share(chosen.count(0), n - chosen.count(None), 4 / 5)


@pytest.mark.parametrize("rule", [NodeAggregation(), NodeAggregation(BetaPrior()), MixedModel()])
def test_it_scores_more_than_independent_samples(rule: BranchingRule) -> None:
    """In one problem the first step decides, in the other the last one too. Independent samples score
    0.2 and 0.1 * 0.9 in the mean."""
    scores = {"right": 1.0, "wrong": 0.0}
    one = {"": {"good": 0.2, "bad": 0.8}, "good": {"right": 1.0}, "bad": {"wrong": 1.0}}
    two = {
        "": {"poor": 0.9, "fair": 0.1}, "poor": {"wrong": 1.0},
        "fair": {"right": 0.9, "wrong": 0.1},
    }  # fmt: skip
    for problem, least in ((one, 0.35), (two, 0.25)):
        trees = [search(ABMCTS(rule), problem, scores, rollouts=40, seed=seed) for seed in range(8)]
        assert sum(tree.value_sum[0] for tree in trees) / (8 * 40) > least
