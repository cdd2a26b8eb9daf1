"""A verifier that breaks its interface is named, whatever it returns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import MCTS, Budget, Problem, SearchConfig, State, Verdict, Verifier, run_search
from rftt.search.verdicts import check_verdicts
from tests.search.golden import table_policy


class _Returns(Verifier):
    def __init__(self, reply: Any) -> None:
        self.reply = reply

    def judge(self, states: Any) -> Any:
        return self.reply


def _states(count: int) -> list[State]:
    return [State(Problem(str(i), "?")) for i in range(count)]


@given(st.lists(st.sampled_from([Verdict(0.5), Verdict(None)]), max_size=5), st.integers(1, 5))
def test_one_verdict_a_state(verdicts: list[Verdict], count: int) -> None:
    verifier = _Returns(verdicts)
    if len(verdicts) == count:
        assert check_verdicts(verifier, _states(count)) == verdicts
    else:
        with pytest.raises(ValueError, match=rf"_Returns\.judge returned {len(verdicts)} verdicts for"):
            check_verdicts(verifier, _states(count))


@pytest.mark.parametrize("reply", [None, 0.5, [0.5], [None], [Verdict(1.0), True], iter([Verdict(1.0)])])
def test_anything_else_is_refused_by_name_in_a_search_too(reply: Any) -> None:
    with pytest.raises(TypeError, match=r"_Returns\.judge returned"):
        check_verdicts(_Returns(reply), _states(1))
    config = SearchConfig(Budget(rollouts=1), max_depth=6)
    with pytest.raises(TypeError, match=r"_Returns\.judge returned"):
        run_search([Problem("p", "?")], MCTS(), table_policy(0), _Returns(reply), config)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_a_score_is_a_finite_number(score: float) -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        Verdict(score)
    with pytest.raises(ValueError, match="not a finite number"):
        Verdict(1.0, step_scores=(0.0, score))
