"""The curriculum: which problems come, what is known of them, the same on every process."""

from __future__ import annotations

import io
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed, multiprocessing

from rftt import Problem, SearchTree
from rftt.learners.distributed import rank, world_size
from rftt.training.curriculum import (
    Choose,
    Curriculum,
    Resting,
    SolveHistory,
    near_half,
    uniform,
    unsolved_first,
)
from rftt.training.dynamic_sampling import DynamicSampling, informative
from tests.training.outcome_trees import outcome_tree, problems

chooses: st.SearchStrategy[Choose] = st.sampled_from(
    [uniform, near_half, unsolved_first, Resting(near_half, 1, 2)]
)


def _trees(batch: Sequence[Problem]) -> list[SearchTree]:
    """Problem ``i`` is solved in ``i % 5`` of 4 rollouts."""
    return [outcome_tree(p, [float(k < int(p.id[1:]) % 5) for k in range(4)]) for p in batch]


def _ids(batches: Sequence[Sequence[Problem]]) -> list[list[str]]:
    return [[problem.id for problem in batch] for batch in batches]


# -- which problems come ------------------------------------------------------------------------------


@given(st.integers(1, 12), st.data(), st.integers(0, 5))
def test_uniform_gives_each_problem_its_turn_once_a_pass(
    number: int, data: st.DataObject, seed: int
) -> None:
    batch_size = data.draw(st.integers(1, number))
    curriculum = Curriculum(problems(number), batch_size, updates=20, seed=seed)
    seen: Counter[str] = Counter()
    for batch in curriculum:
        extra = curriculum.refill(data.draw(st.integers(0, 3)))
        ids = [problem.id for problem in [*batch, *extra]]
        assert len(batch) == batch_size
        assert len(set(ids)) == len(ids), "a batch and its refills are distinct problems"
        seen.update(ids)
        # A batch may hold problems of two passes, and those of the first come first.
        assert max(seen.values()) - min(seen[p.id] for p in curriculum.items) <= 2
        if batch_size == number:
            assert not extra, "the batch holds all problems"


def test_passes_do_not_overlap_without_refills() -> None:
    curriculum = Curriculum(problems(7), 3, updates=7, seed=1)
    drawn = [problem.id for batch in curriculum for problem in batch]
    assert Counter(drawn) == Counter(3 * [p.id for p in problems(7)])
    assert len(curriculum) == 7


@given(chooses, st.integers(3, 12), st.integers(0, 9), st.integers(0, 3))
def test_saved_after_any_batch_it_goes_on_as_if_never_stopped(
    choose: Choose, number: int, stop: int, refilled: int
) -> None:
    def go_on(curriculum: Curriculum, batches: int) -> list[list[str]]:
        found = []
        for batch in islice(curriculum, batches):
            whole = [*batch, *curriculum.refill(refilled)]
            curriculum.record(_trees(whole))
            found.append(whole)
        return _ids(found)

    def new() -> Curriculum:
        return Curriculum(problems(number), 3, updates=10, seed=2, choose=choose)

    whole, first, second = new(), new(), new()
    expected = go_on(whole, 10)
    before = go_on(first, stop)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + go_on(second, 10) == expected
    assert second.state_dict() == whole.state_dict()


def test_a_checkpoint_is_read_with_weights_only() -> None:
    curriculum = Curriculum(problems(5), 2, updates=9)
    curriculum.record(_trees(next(iter(curriculum))))
    file = io.BytesIO()
    torch.save(curriculum.state_dict(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == curriculum.state_dict()


def test_another_list_of_problems_is_refused() -> None:
    state = Curriculum(problems(5), 2, updates=9).state_dict()
    with pytest.raises(ValueError, match=r"Curriculum: ids of problems \(digest\) was .* and is"):
        Curriculum(problems(5)[::-1], 2, updates=9).load_state_dict(state)
    with pytest.raises(ValueError, match=r"min_score was 1\.0 and is 0\.5"):
        Curriculum(problems(5), 2, updates=9, min_score=0.5).load_state_dict(state)


def test_problems_that_cannot_be_told_apart_and_too_few_are_refused() -> None:
    with pytest.raises(ValueError, match="two problems have the id 'p0'"):
        Curriculum([*problems(2), *problems(1)], 1, updates=1)
    with pytest.raises(ValueError, match="2 problems are too few for batches of 3"):
        Curriculum(problems(2), 3, updates=1)
    with pytest.raises(ValueError, match="updates and window must be 1 or more, not 1 and 0"):
        Curriculum(problems(2), 2, updates=1, window=0)


# -- what is wanted -----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=4))
def test_wants_follow_the_rate(visits: list[tuple[int, int]]) -> None:
    solved = [s for s, _ in visits]
    judged = [s + failed for s, failed in visits]
    history = SolveHistory(tuple(map(float, solved)), tuple(map(float, judged)))
    rate = Fraction(sum(solved) + 1, sum(judged) + 2)
    assert history.rate == pytest.approx(float(rate))
    assert near_half(history) == pytest.approx(float(rate * (1 - rate)))
    assert unsolved_first(history) == pytest.approx(float(1 - rate))
    assert uniform(history) == 1


def test_problems_are_taken_in_proportion_to_how_much_they_are_wanted() -> None:
    """Of problems never and sometimes solved in 4 rollouts, ``near_half`` wants 5/36 and 1/4."""
    curriculum = Curriculum(problems(100), 5, updates=100_000, choose=near_half, window=1)
    # Histories stay as they are: odd problems are solved in 2 of 4 rollouts, even ones in none.
    curriculum.record([outcome_tree(p, [i % 2, i % 2, 0, 0]) for i, p in enumerate(problems(100))])
    taken = Counter(int(p.id[1:]) % 2 for batch in islice(curriculum, 4000) for p in batch)
    share = taken[0] / taken.total()
    expected = (5 / 36) / (5 / 36 + 1 / 4)
    # 20,000 draws: a standard error of 0.0034, less for the passes; four of them.
    assert share == pytest.approx(expected, abs=0.014)


def _slightly(history: SolveHistory) -> float:
    return 1e-3 * near_half(history)


def test_only_how_much_problems_are_wanted_beside_each_other_counts() -> None:
    found = []
    for choose in (near_half, _slightly):
        curriculum = Curriculum(problems(9), 3, updates=9, choose=choose)
        curriculum.record(_trees(problems(9)))
        found.append(_ids(list(curriculum)))
    assert found[0] == found[1]


def _no_number(history: SolveHistory) -> float:
    return float("nan")


def test_a_want_that_is_no_number_is_refused() -> None:
    curriculum = Curriculum(problems(2), 1, updates=1, choose=_no_number)
    with pytest.raises(ValueError, match="choose: problem 'p0' is wanted by nan; give 0 or more"):
        next(iter(curriculum))


def test_settled_problems_rest_and_come_back() -> None:
    resting = Resting(uniform, visits=2, batches=3)
    for solved, is_settled in [((4.0, 4.0), True), ((0.0, 0.0), True), ((4.0, 0.0), False)]:
        for waited in range(5):
            history = SolveHistory((1.0, *solved), (4.0, 4.0, 4.0), waited)
            assert resting(history) == (0.0 if is_settled and waited < 3 else 1.0)
    assert resting(SolveHistory((4.0,), (4.0,))) == 1, "one visit does not settle it"
    assert resting(SolveHistory()) == 1

    curriculum = Curriculum(problems(4), 2, updates=9, choose=Resting(uniform, 1, 2))
    (first,) = _ids(list(islice(curriculum, 1)))
    curriculum.record([outcome_tree(p, [1.0]) for p in problems(4) if p.id in first])
    following = _ids(list(islice(curriculum, 4)))
    others = sorted({p.id for p in problems(4)} - set(first))
    assert [sorted(batch) for batch in following[:2]] == [others, others]
    assert set(first) & {i for batch in following[2:] for i in batch}, "they come back"


def test_where_all_rest_any_is_taken_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    curriculum = Curriculum(problems(4), 2, updates=9, choose=Resting(uniform, 1, 50))
    curriculum.record([outcome_tree(p, [0.0]) for p in problems(4)])
    batches = list(islice(curriculum, 2))
    assert sorted(p.id for batch in batches for p in batch) == ["p0", "p1", "p2", "p3"]
    assert "none of the 4 problems left is wanted; any is taken" in caplog.text


# -- what is known ------------------------------------------------------------------------------------


def test_rates_are_of_outcomes_of_judged_rollouts(caplog: pytest.LogCaptureFixture) -> None:
    one, two, three, four = problems(4)
    curriculum = Curriculum(problems(4), 1, updates=9)
    with caplog.at_level(logging.INFO):
        curriculum.record(
            [
                # Steps of high scores do not make a wrong solution right; an end unjudged is no failure.
                outcome_tree(one, [0.0, 0.0, None], step_scores=[(1.0, 1.0)] * 2),
                outcome_tree(two, [1.0, 0.9, 1.5]),
                outcome_tree(three, [1.0, 1.0], truncated=True),
                outcome_tree(four, [1.0, 1.0]),
            ]
        )
    assert curriculum.history(one) == SolveHistory((0.0,), (2.0,), 0)
    assert curriculum.history(two) == SolveHistory((2.0,), (3.0,), 0)
    assert curriculum.history(three) == SolveHistory(), "a truncated box is neither"
    assert "4 problems: solved always 1, sometimes 1, never 1; without a judged rollout 1" in caplog.text


def test_a_history_goes_back_as_far_as_its_window() -> None:
    (problem,) = problems(1)
    curriculum = Curriculum([problem], 1, updates=9, window=2)
    for solved in range(4):
        curriculum.record([outcome_tree(problem, [1.0] * solved + [0.0] * (4 - solved))])
    list(islice(curriculum, 3))
    assert curriculum.history(problem) == SolveHistory((2.0, 3.0), (4.0, 4.0), 3)


def test_trees_of_an_unknown_problem_are_refused() -> None:
    with pytest.raises(ValueError, match="problem 'p1' is not one of the curriculum's 1"):
        Curriculum(problems(1), 1, updates=1).record([outcome_tree(problems(2)[1], [1.0])])


# -- dynamic sampling ---------------------------------------------------------------------------------


def test_informative_is_a_matter_of_outcome() -> None:
    (problem,) = problems(1)
    wrong = outcome_tree(problem, [0.0, 0.0], step_scores=[(0.9, 0.1), (0.2, 0.3)])
    trees = [
        wrong,
        outcome_tree(problem, [1.0, 1.0]),
        outcome_tree(problem, [1.0, 0.0]),
        outcome_tree(problem, [0.0, 1.0], truncated=True),
        outcome_tree(problem, [1.0, None]),
        outcome_tree(problem, []),
    ]
    assert informative(trees) == [trees[2]]


class _Searches:
    """Searches without a model: problem ``i`` is informative if ``i % 3 == 0``."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, batch: Sequence[Problem], update: int) -> list[SearchTree]:
        self.calls.append(len(batch))
        share = batch[rank() :: world_size()]
        return [outcome_tree(p, [0.0, float(int(p.id[1:]) % 3 == 0)]) for p in share]


@given(st.integers(1, 30), st.data())
def test_more_problems_are_searched_until_enough_are_informative(
    number: int, data: st.DataObject
) -> None:
    batch_size = data.draw(st.integers(1, number))
    max_extra = data.draw(st.integers(1, 40))
    curriculum = Curriculum(problems(number), batch_size, updates=1, seed=number)
    (batch,) = curriculum
    searches = _Searches()
    trees = DynamicSampling(searches, curriculum, max_extra)(batch, update=0)
    ids = [tree.problem.id for tree in trees]
    assert ids[:batch_size] == [problem.id for problem in batch]
    assert len(set(ids)) == len(ids) == sum(searches.calls)
    found = len(informative(trees))
    assert found <= batch_size
    assert len(ids) - batch_size <= max_extra
    if found < batch_size:
        assert len(ids) in (number, batch_size + max_extra), "it stops early for one of two reasons"


def test_a_shortage_of_informative_groups_is_said(caplog: pytest.LogCaptureFixture) -> None:
    curriculum = Curriculum(problems(9), 4, updates=1)
    (batch,) = curriculum
    DynamicSampling(_Searches(), curriculum, max_extra=50)(batch, update=7)
    assert "update 7: 3 of 9 groups have rollouts that differ in outcome; 4 were wanted" in caplog.text


# -- several processes --------------------------------------------------------------------------------


def _run(curriculum: Curriculum) -> dict[str, Any]:
    """Three updates with dynamic sampling, recorded; what it ends in."""
    seen = []
    for batch in curriculum:
        trees = DynamicSampling(_Searches(), curriculum, 5)(batch, update=0)
        curriculum.record(trees)
        seen.append(len(trees))
    return {"state": curriculum.state_dict(), "seen": seen}


def _curriculum() -> Curriculum:
    return Curriculum(problems(20), 3, updates=3, seed=5, choose=Resting(near_half, 1, 2))


def _process(number: int, folder: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=number, world_size=2
    )
    found = _run(_curriculum())
    error = ""
    try:
        _curriculum().record([outcome_tree(Problem("other", "?"), [1.0])] if number else [])
    except ValueError as raised:
        error = str(raised)
    Path(folder, f"{number}.json").write_text(json.dumps(found | {"error": error}))
    distributed.destroy_process_group()


def test_two_processes_know_what_one_knows() -> None:
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(_process, (folder,), nprocs=2, start_method="fork")
        first, second = (json.loads(Path(folder, f"{number}.json").read_text()) for number in range(2))
    alone = json.loads(json.dumps(_run(_curriculum())))
    assert first["state"] == second["state"] == alone["state"]
    searched = [a + b for a, b in zip(first["seen"], second["seen"], strict=True)]
    assert searched == alone["seen"]
    assert "problem 'other' is not one of" in first["error"] == second["error"], "neither waits for ever"
