"""Finite problems: what is known of them is true."""

from __future__ import annotations

import subprocess
import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import GenerationRequest, Grammar, State, Verdict
from rftt.testing import FiniteProblem, Reply, TabularPolicy, finite_problems, grammars

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
def test_completions_end_at_leaves_that_are_judged_by_the_table(
    finite: FiniteProblem, seed: int
) -> None:
    (problem,) = finite.problems()
    (steps,) = finite.policy.extend([GenerationRequest(State(problem), seed)])
    path = tuple(step.text for step in steps)
    assert path in finite.leaves
    assert len(path) <= finite.depth <= 4
    complete, partial = finite.verifier.judge(
        [State(problem, tuple(steps)), State(problem, tuple(steps[:-1]))]
    )
    assert complete == finite.verdicts[path]
    assert partial.score is None
    best = finite.best_score
    assert complete.score is None or (best is not None and -1.0 <= complete.score <= best)


@given(finite_problems(unique=True), st.data())
def test_unique_replies_are_reached_by_forcing_functions(
    finite: FiniteProblem, data: st.DataObject
) -> None:
    leaf = data.draw(st.sampled_from(finite.leaves))
    (problem,) = finite.problems()
    state = State(problem)
    for depth, text in enumerate(leaf):
        (function,) = (r.function for r in finite.policy.replies(leaf[:depth]) if r.text == text)
        request = GenerationRequest(
            state, seed=Random(depth).getrandbits(9), function=function, until="step"
        )
        ((step,),) = finite.policy.extend([request])
        state = State(problem, (*state.steps, step))
    assert tuple(step.text for step in state.steps) == leaf
    assert state.steps[-1].terminal


@given(finite_problems(), st.integers(0, 99), st.integers(1, 5), st.integers(1, 5))
def test_limits_count_steps_and_sampled_ids(
    finite: FiniteProblem, seed: int, max_steps: int, max_tokens: int
) -> None:
    (problem,) = finite.problems()
    (most,) = finite.policy.extend([GenerationRequest(State(problem), seed)])
    request = GenerationRequest(State(problem), seed, max_steps=max_steps, max_tokens=max_tokens)
    (steps,) = finite.policy.extend([request])
    assert steps == most[: min(max_steps, max_tokens)]


@given(finite_problems(), st.integers(0, 99), st.integers(0, 99))
def test_a_forced_id_is_not_a_sample(finite: FiniteProblem, seed: int, other_seed: int) -> None:
    (problem,) = finite.problems()
    ((drawn, *_),) = finite.policy.extend([GenerationRequest(State(problem), seed)])
    request = GenerationRequest(
        State(problem), other_seed, function=drawn.function, until="step", prefix=drawn.ids
    )
    ((forced,),) = finite.policy.extend([request])
    assert (forced.text, forced.ids, forced.terminal) == (drawn.text, drawn.ids, drawn.terminal)
    assert (drawn.action_mask, forced.action_mask) == ((True,), (False,))


def test_a_step_that_the_table_does_not_have_is_empty_and_ends_the_solution() -> None:
    state = State(FiniteProblem(POLICY, VERDICTS).problems()[0])
    for forced in ({"function": "clarify"}, {"prefix": (7, 8)}):
        ((step,),) = POLICY.extend([GenerationRequest(state, seed=0, **forced)])  # type: ignore[arg-type]
        assert (step.text, step.terminal) == ("", True)


@given(grammars())
def test_grammars_reach_the_end_from_everywhere(grammar: Grammar) -> None:
    assert grammar.is_terminal("end")
    assert all("end" in grammar.legal(name) for name in grammar.functions if name != "end")


@pytest.mark.parametrize("name", ["finite_problems", "check_searcher", "trees"])
def test_without_hypothesis_it_is_said_what_to_install(name: str) -> None:
    code = f"import sys; sys.modules['hypothesis'] = None; from rftt.testing import {name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: " in done.stderr
    assert "pip install 'rftt[contract]'" in done.stderr


def test_a_finite_problem_needs_neither_hypothesis_nor_torch() -> None:
    code = (
        "import sys; sys.modules['hypothesis'] = sys.modules['torch'] = None; "
        "from rftt.testing import FiniteProblem, Reply, TabularPolicy, TabularVerifier"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
