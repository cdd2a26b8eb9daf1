"""Tasks of reasoning-gym as problems, judged by its own scorers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import reasoning_gym

from rftt.problems.reasoning_gym import reasoning_gym_problems


@pytest.mark.parametrize("name", ["chain_sum", "leg_counting", "graph_color", "countdown", "sudoku"])
def test_tasks_are_reasoning_gyms_own(name: str) -> None:
    problems = reasoning_gym_problems(name, 3, seed=5)
    tasks = reasoning_gym.create_dataset(name, size=3, seed=5)
    assert [p.question for p in problems] == [task["question"] for task in tasks]
    assert [p.answer for p in problems] == [task["answer"] for task in tasks]
    assert len({p.id for p in problems}) == 3
    for problem, task in zip(problems, tasks, strict=True):
        entry = json.loads(json.dumps(problem.metadata))["entry"]
        assert entry == problem.metadata["entry"]
        assert entry == json.loads(json.dumps(task))
        for answer in (task["answer"], "0", "nonsense"):
            assert tasks.score_answer(answer, entry) == tasks.score_answer(answer, task)


def test_arguments_decide_the_problems() -> None:
    problems = reasoning_gym_problems("chain_sum", 5, seed=1, min_terms=2, max_terms=2)
    assert problems == reasoning_gym_problems("chain_sum", 5, seed=1, min_terms=2, max_terms=2)
    assert problems[:3] == reasoning_gym_problems("chain_sum", 3, seed=1, min_terms=2, max_terms=2)
    assert {p.metadata["entry"]["metadata"]["num_terms"] for p in problems} == {2}
    assert problems[0].metadata["config"] == {"min_terms": 2, "max_terms": 2}
    other = reasoning_gym_problems("chain_sum", 5, seed=2, min_terms=2, max_terms=2)
    assert [p.question for p in other] != [p.question for p in problems]


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("chain_sun", {}, r"no data set 'chain_sun'; did you mean one of \['chain_sum'"),
        ("chain_sum", {"terms": 2}, "refused the settings of 'chain_sum': .*'terms'"),
        ("chain_sum", {"min_terms": -1}, "refused the settings of 'chain_sum': .*min_terms"),
        ("arc_agi", {}, "arc_agi, task 0: its scorer gives the gold answer 1.0, and 0.05 once"),
    ],
)
def test_what_cannot_be_is_refused(name: str, config: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reasoning_gym_problems(name, 2, **config)


@pytest.mark.parametrize("count", [0, -1])
def test_no_problems_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"count must be 1 or more, not {count}"):
        reasoning_gym_problems("chain_sum", count)


def test_without_reasoning_gym_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['reasoning_gym'] = None\n"
        "from rftt.problems.reasoning_gym import reasoning_gym_problems\n"
        "reasoning_gym_problems('chain_sum', 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: tasks come from reasoning-gym: pip install 'rftt[reasoning-gym]'" in done.stderr
