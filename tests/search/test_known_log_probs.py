"""Log-probabilities that a server does not report are refused, never a score that is NaN."""

from __future__ import annotations

import math

import pytest

from rftt import Grammar, Problem, SearchTree, Step
from rftt.search.scores import known_log_probs, mean_log_prob

NAN = math.nan


def _tree(*log_probs: float) -> SearchTree:
    tree = SearchTree(Problem("p", "what?"), Grammar.default(), 3)
    ids = tuple(range(len(log_probs)))
    tree.attach(0, Step("next_step", "so", ids, log_probs, (True,) * len(ids), terminal=False))
    return tree


def test_a_stop_that_a_server_leaves_out_is_no_fault() -> None:
    tree = _tree(-1.0, -3.0, NAN)
    assert known_log_probs(tree, 1) == [-1.0, -3.0]
    assert mean_log_prob(tree, 1) == -2.0
    assert mean_log_prob(tree, 0) == 0.0


@pytest.mark.parametrize("log_probs", [(NAN, -1.0), (NAN,), (NAN, NAN)])
def test_others_are_refused_by_name(log_probs: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="problem 'p', node 1: log-probabilities are NaN"):
        mean_log_prob(_tree(*log_probs), 1)
