"""reasoning-gym's scorers as a verifier: each data set's own answer is right, and answers that are
programs reach nothing."""

from __future__ import annotations

import logging
import time

import pytest

from rftt import Problem, State, Verdict
from rftt.testing import check_verifier
from rftt.testing.verifier.cases import solution
from rftt.verifiers.reasoning_gym import ReasoningGymVerifier
from rftt.verifiers.sandbox.launch import Limits, SandboxError
from rftt.verifiers.sandbox.probe import require

reasoning_gym = pytest.importorskip("reasoning_gym")
from rftt.problems.reasoning_gym import reasoning_gym_problems  # noqa: E402

try:
    require(Limits())
except SandboxError as error:
    pytest.skip(f"no sandbox here: {error}", allow_module_level=True)

VERIFIER = ReasoningGymVerifier(seconds=10)
TUPLES = ("arc_agi", "rearc")
"""Data sets whose scorers compare tuples, which JSON does not have: their problems are refused."""


def said(text: str) -> str | None:
    """Take the whole step as the answer."""
    return text


PLAIN = ReasoningGymVerifier(said, seconds=10)


def _problem(dataset: str, seed: int = 0) -> Problem:
    return reasoning_gym_problems(dataset, 1, seed=seed)[0]


def _judge(problem: Problem, answer: str) -> Verdict:
    (verdict,) = PLAIN.judge([solution(problem, answer)])
    return verdict


def _gold(problem: Problem) -> str | None:
    answer: str | None = problem.metadata["entry"]["answer"]
    return answer


@pytest.mark.parametrize(
    "dataset",
    ["chain_sum", "leg_counting", "countdown", "n_queens", "binary_matrix", "spiral_matrix",
     "simple_equations", "polynomial_multiplication", "sudoku", "number_sorting"],
)  # fmt: skip
def test_the_data_sets_own_answer_is_right(dataset: str) -> None:
    problem = _problem(dataset)
    answer = _gold(problem)
    assert answer is not None
    assert _judge(problem, answer) == Verdict(1.0, answer)
    wrong = _judge(problem, "no idea")
    assert wrong.score is not None
    assert wrong.score < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("dataset", sorted(reasoning_gym.factory.DATASETS))
def test_every_data_sets_own_answer_is_right(dataset: str) -> None:
    if dataset in (*TUPLES, "composite"):
        pytest.skip("its problems are refused by the loader")
    for seed in range(3):
        problem = _problem(dataset, seed)
        answer = _gold(problem)
        if answer is not None:
            assert _judge(problem, answer).score == 1.0


def test_lists_are_read_as_literals() -> None:
    problem = _problem("n_queens")
    answer = _gold(problem)
    assert answer is not None
    rows = [line.split() for line in answer.split("\n")]
    as_list = repr(rows)
    program = f"[{as_list}, print('x')][0]"
    original = reasoning_gym.get_score_answer_fn("n_queens")
    assert original(program, problem.metadata["entry"]) == original(as_list, problem.metadata["entry"])
    assert _judge(problem, as_list).score == original(as_list, problem.metadata["entry"])
    assert _judge(problem, program).score == 0.0 or _judge(problem, program).score == 0.01


@pytest.mark.parametrize(
    "program",
    [
        "open('/etc/passwd').read()",
        "__import__('os').system('true')",
        "__import__('os').fork()",
        "__import__('socket').socket()",
        "[open('/tmp/escaped', 'w')]",
    ],
)
def test_an_answer_that_is_a_program_reaches_nothing(program: str) -> None:
    """It gives the number that is asked for if it could do what it tries."""
    problem = _problem("countdown")
    target = problem.metadata["entry"]["metadata"]["target"]
    escaped = _judge(problem, f"[{program}, {target}][1]")
    assert escaped.score is not None
    assert escaped.score < 0.1


def test_an_answer_that_takes_too_long_scores_0_and_the_next_is_scored() -> None:
    verifier = ReasoningGymVerifier(said, seconds=1.0)
    problem = _problem("countdown")
    answer = _gold(problem)
    assert answer is not None
    verifier.judge([solution(problem, answer)])
    start = time.monotonic()
    slow, right = verifier.judge([solution(problem, "9**9**9**9"), solution(problem, answer)])
    assert time.monotonic() - start < 3
    assert slow.score == 0.0
    assert "did not end in time" in slow.reason
    assert right.score == 1.0
    verifier.close()
    assert verifier.judge([solution(problem, answer)])[0].score == 1.0


def test_a_process_that_was_killed_is_replaced_and_said(caplog: pytest.LogCaptureFixture) -> None:
    verifier = ReasoningGymVerifier(said, seconds=5.0)
    problem = _problem("chain_sum")
    answer = _gold(problem)
    assert answer is not None
    state = solution(problem, answer)
    assert verifier.judge([state])[0].score == 1.0
    assert verifier._worker is not None
    verifier._worker._process.kill()
    with caplog.at_level(logging.WARNING):
        assert verifier.judge([state])[0].score == 1.0
    assert "anew in another process" in caplog.text
    verifier.close()


def test_without_an_entry_it_abstains_and_without_an_answer_it_is_wrong() -> None:
    (verdict,) = VERIFIER.judge([solution(Problem("p", "?", "5"), "\\boxed{5}")])
    assert verdict.score is None
    assert verdict.answer == "5"
    assert '"entry"' in verdict.reason
    problem = _problem("chain_sum")
    verdicts = VERIFIER.judge([State(problem), solution(problem, "no box")])
    assert [v.score for v in verdicts] == [0.0, 0.0]


@pytest.mark.slow
def test_it_keeps_every_promise() -> None:
    states = []
    for dataset in ("chain_sum", "countdown", "n_queens"):
        problem = _problem(dataset)
        states += [solution(problem, f"\\boxed{{{text}}}") for text in (_gold(problem), "1", "1 2")]
    check_verifier(ReasoningGymVerifier(seconds=3), states=states, seconds=15)
