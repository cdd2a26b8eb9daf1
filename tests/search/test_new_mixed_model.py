"""AB-MCTS-M: the posterior of its mixed model, against one that is computed from the full covariance."""

from __future__ import annotations

import json
import math
from random import Random

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from rftt import Budget, MathVerifier, SearchConfig, resume_search, run_search
from rftt.search.strategies import ABMCTS, MixedModel
from rftt.search.strategies.ab_mcts import Scores
from rftt.search.strategies.mixed_model import posterior
from rftt.search.tree.storage import tree_from_json, tree_to_json
from rftt.testing.finite.tabular import TabularPolicy
from tests.strategies import policies, problems

NOTHING = Scores()


def _dense_log_posterior(
    model: MixedModel, groups: list[list[float]], alpha: float, y: float
) -> tuple[float, list[float], float]:
    """Return the log-density of all scores and both deviations, and the predictive mean of each group
    and of a new one, from the full covariance matrix of the scores."""
    scores = np.array([score for group in groups for score in group])
    of = np.array([place for place, group in enumerate(groups) for _ in group])
    covariance = model.mean_deviation**2 + alpha**2 * (of[:, None] == of) + y**2 * np.eye(len(of))
    rest = np.linalg.solve(covariance, scores - model.mean)
    log_density = -((scores - model.mean) @ rest + np.linalg.slogdet(covariance)[1]) / 2
    log_prior = -((alpha / model.alpha_scale) ** 2 + (y / model.y_scale) ** 2) / 2
    means = [
        model.mean + (model.mean_deviation**2 + alpha**2 * (of == place)) @ rest
        for place in range(len(groups) + 1)
    ]
    mu = model.mean + model.mean_deviation**2 * rest.sum()
    return float(log_density + log_prior), means, mu


def test_the_mixed_posterior_is_that_of_the_full_covariance() -> None:
    model = MixedModel()
    groups = [[0.9, 0.8, 1.0, 0.95], [0.1, 0.3], [0.5, 0.0], [0.4], [0.7]]
    belief = posterior(model, [Scores.of(group) for group in groups[:-1]], Scores.of(groups[-1]))
    weights = np.diff([0.0, *belief.passed])
    places = np.argsort(weights)[-400::40].tolist()
    mine = np.diff(np.log(weights[places]))
    dense = []
    for at in places:
        alpha, y = belief.sigma_alpha[at], belief.sigma_y[at]
        log_density, means, mu = _dense_log_posterior(model, groups, alpha, y)
        dense.append(log_density + math.log(alpha * y))
        assert belief.mu_mean[at] == pytest.approx(mu, abs=1e-9)
        # The group's mean, given mu and its scores, at the mean of mu.
        count, total = len(groups[0]), sum(groups[0])
        precision = alpha**-2 + count * y**-2
        assert (mu * alpha**-2 + total * y**-2) / precision == pytest.approx(means[0], abs=1e-9)
    assert mine == pytest.approx(np.diff(dense), abs=1e-6)


def test_mixed_draws_have_the_predictive_mean() -> None:
    """Against quadrature over the same range of deviations, on another grid."""
    model, rng, n = MixedModel(), Random(0), 4000
    groups = [[0.9, 0.8, 1.0], [0.1, 0.3]]
    belief = posterior(model, [Scores.of(group) for group in groups], NOTHING)
    alphas = np.linspace(0.01, 0.8, 60)
    ys = np.linspace(0.01, 1.2, 60)
    found = [_dense_log_posterior(model, groups, a, y) for a in alphas for y in ys]
    log_weights = np.array([each[0] for each in found])
    weights = np.exp(log_weights - log_weights.max())
    expected = weights @ np.array([each[1] for each in found]) / weights.sum()
    for scores, mean in zip([*map(Scores.of, groups), NOTHING], expected, strict=True):
        draws = [belief.draw(scores, rng) for _ in range(n)]
        assert np.mean(draws) == pytest.approx(mean, abs=4 * np.std(draws) / math.sqrt(n) + 0.005)
    assert expected[0] > expected[2] > expected[1], "a new child is expected between the two"


def test_equal_scores_leave_a_posterior() -> None:
    belief = posterior(MixedModel(), [Scores.of([1.0] * 30), Scores.of([0.0] * 30)], NOTHING)
    draws = [belief.draw(Scores.of([1.0] * 30), Random(seed)) for seed in range(50)]
    assert all(0.8 < draw < 1.2 for draw in draws)


@settings(max_examples=10)
@given(policies(), st.integers(0, 9))
def test_the_mixed_model_searches_on_after_a_save(policy: TabularPolicy, seed: int) -> None:
    searcher = ABMCTS(MixedModel(), simulations_per_round=2)
    config = SearchConfig(Budget(rollouts=8), seed=seed, max_depth=6)
    (unbroken,) = run_search(problems(), searcher, policy, MathVerifier(), config)
    short = evolve(config, budget=Budget(rollouts=8, policy_calls=2))
    (part,) = run_search(problems(), searcher, policy, MathVerifier(), short)
    resumed = tree_from_json(json.loads(json.dumps(tree_to_json(part))))
    resume_search([resumed], searcher, policy, MathVerifier(), config)
    assert tree_to_json(resumed) == tree_to_json(unbroken)
