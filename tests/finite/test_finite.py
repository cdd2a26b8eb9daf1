"""Finite problems: what is known of them is true."""

from __future__ import annotations

import subprocess
import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import Extension, Grammar, Reply, State, TabularPolicy, Verdict
from rftt.finite.problem import FiniteProblem
from rftt.finite.strategies import finite_problems, grammars
from rftt.interfaces import Solution

STEPS = {
    (): [Reply("analysis", "think", 0.5), Reply("next_step", "guess", 0.5)],
    ("think",): [Reply("next_step", "right", 0.25), Reply("next_step", "wrong", 0.75)],
}
POLICY = TabularPolicy(Grammar.default(), STEPS)
VERDICTS = {
    ("guess",): Verdict(None),
    ("think", "right"): Verdict(1.0, "1"),
    ("think", "wrong"): Verdict(0.0, "2"),
}


def test_what_is_known_of_a_problem() -> None:
    finite = FiniteProblem(POLICY, VERDICTS)
    assert sorted(finite.leaves) == sorted(VERDICTS)
    assert finite.depth == 2
    assert finite.best_leaf == ("think", "right")
    assert finite.best_score == 1.0
    assert [problem.id for problem in finite.problems(2)] == ["p0", "p1"]


def test_a_problem_without_a_score_has_no_optimum() -> None:
    finite = FiniteProblem(POLICY, dict.fromkeys(VERDICTS, Verdict(None)))
    assert finite.best_leaf is None
    assert finite.best_score is None


def test_verdicts_must_be_those_of_the_leaves() -> None:
    with pytest.raises(ValueError, match=r"none for the leaf \('think', 'wrong'\)"):
        FiniteProblem(POLICY, {("think", "right"): Verdict(1.0)})
    with pytest.raises(ValueError, match=r"\('think',\) is not a leaf"):
        FiniteProblem(POLICY, VERDICTS | {("think",): Verdict(1.0)})


@given(finite_problems(rewards=(-1.0, 1.0)), st.integers(0, 99))
def test_samples_end_at_leaves_that_are_judged_by_the_table(finite: FiniteProblem, seed: int) -> None:
    (problem,) = finite.problems()
    (chain,) = finite.policy.extend([Extension(State(problem), seed)])
    path = tuple(step.text for step in chain)
    assert path in finite.leaves
    assert len(path) <= finite.depth <= 4
    (whole, half) = finite.verifier.judge(problem, [Solution(chain), Solution(chain[:-1])])
    assert whole == finite.verdicts[path]
    assert half.score is None
    best = finite.best_score
    assert whole.score is None or (best is not None and -1.0 <= whole.score <= best)


@given(finite_problems(unique=True), st.data())
def test_unique_replies_are_reached_by_forcing_functions(
    finite: FiniteProblem, data: st.DataObject
) -> None:
    leaf = data.draw(st.sampled_from(finite.leaves))
    (problem,) = finite.problems()
    state = State(problem)
    for depth, text in enumerate(leaf):
        (function,) = (r.function for r in finite.policy.replies(leaf[:depth]) if r.text == text)
        request = Extension(state, seed=Random(depth).getrandbits(9), function=function, until="step")
        ((segment,),) = finite.policy.extend([request])
        state = State(problem, (*state.steps, segment))
    assert tuple(step.text for step in state.steps) == leaf
    assert state.steps[-1].is_final


@given(grammars())
def test_grammars_reach_the_end_from_everywhere(grammar: Grammar) -> None:
    assert grammar.is_terminal("end")
    assert all("end" in grammar.legal(name) for name in grammar.functions if name != "end")


@pytest.mark.parametrize("module", ["rftt.finite.strategies", "rftt.search.contract"])
def test_without_hypothesis_it_is_said_what_to_install(module: str) -> None:
    code = f"import sys; sys.modules['hypothesis'] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: " in done.stderr
    assert "pip install 'rftt[contract]'" in done.stderr
