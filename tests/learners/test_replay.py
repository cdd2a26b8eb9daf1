"""The replay buffer: what it keeps, what goes first, and what a learner is given of it."""

from __future__ import annotations

import io
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed, multiprocessing

from rftt import FunctionalPolicy, SearchTree, State, SupervisedLearner
from rftt.learners.distributed import rank, world_size
from rftt.learners.rollouts.replay import ReplayBuffer
from tests.models import functional_policy
from tests.training.outcome_trees import outcome_tree, problems


@cache
def _policy() -> FunctionalPolicy:
    return functional_policy()


def _tree(problem: int, first_id: int, scores: Sequence[float | None] = (1.0,)) -> SearchTree:
    return outcome_tree(problems(problem + 1)[problem], scores, first_id=first_id)


def _names(buffer: ReplayBuffer) -> list[tuple[str, int]]:
    """Problem and first id of the first step's body, of each path."""
    return [(path["problem_id"], path["ids"][-5]) for path in buffer.paths]


def test_a_path_is_kept_as_a_learner_takes_it() -> None:
    policy, buffer = _policy(), ReplayBuffer(9, 9)
    tree = outcome_tree(problems(1)[0], [0.0, 1.0])
    buffer.add([tree], policy)
    (path,) = buffer.paths
    question = list(policy.context(State(tree.problem)))
    places = len(question)
    assert path["ids"] == [*question, 1, 20, 21, 2, 3, 4]
    # The opener that was forced is learned, the last id, which no policy drew, is not.
    assert path["action_mask"] == [False] * places + [True, True, True, True, True, False]
    assert path["log_probs"] == [0.0] * places + [0.0, -0.25, -0.125, -1.0, -2.0, 0.0]
    assert (path["problem_id"], path["score"]) == ("p0", 1.0)
    # The learner lays out the tree itself as it does the path.
    learner = SupervisedLearner(policy)
    of_tree, of_path = learner.experience([tree]), learner.collate(buffer.paths)
    assert torch.equal(of_tree.ids, of_path.ids)
    assert torch.equal(of_tree.action_mask, of_path.action_mask)


def test_only_judged_rollouts_of_enough_score_are_kept() -> None:
    buffer = ReplayBuffer(9, 9, min_score=0.5)
    trees = [
        outcome_tree(problems(1)[0], [0.4, 0.5, None]),
        outcome_tree(problems(2)[1], [1.0], truncated=True),
        # Steps of high scores do not make a wrong solution right.
        outcome_tree(problems(3)[2], [0.0], step_scores=[(1.0, 1.0)]),
    ]
    buffer.add(trees, _policy())
    assert _names(buffer) == [("p0", 20)]


def test_the_oldest_go_first(caplog: pytest.LogCaptureFixture) -> None:
    buffer, policy = ReplayBuffer(capacity=4, per_problem=2), _policy()
    buffer.add([_tree(0, 10), _tree(1, 10), _tree(0, 20)], policy)
    assert _names(buffer) == [("p0", 10), ("p1", 10), ("p0", 20)]
    with caplog.at_level(logging.INFO):
        buffer.add([_tree(0, 30), _tree(1, 10)], policy)
    assert _names(buffer) == [("p1", 10), ("p0", 20), ("p0", 30)], "two of one problem; none twice"
    assert (
        "2 solved paths: 1 added, 1 known already, 1 older ones removed; the buffer holds 3"
        in caplog.text
    )
    buffer.add([_tree(2, 10), _tree(3, 10)], policy)
    assert _names(buffer) == [("p0", 20), ("p0", 30), ("p2", 10), ("p3", 10)]


additions = st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=4), max_size=5)


@given(additions, st.integers(1, 6), st.integers(1, 3))
def test_limits_hold_and_what_stays_is_the_newest(
    updates: list[list[tuple[int, int]]], capacity: int, per_problem: int
) -> None:
    buffer = ReplayBuffer(capacity, per_problem)
    expected: list[tuple[str, int]] = []
    for update in updates:
        buffer.add([_tree(problem, 10 * number) for problem, number in update], _policy())
        gone = set(expected)
        for problem, number in update:
            path = (f"p{problem}", 10 * number)
            if path in gone:
                continue
            gone.add(path)
            expected.append(path)
            of_problem = [p for p in expected if p[0] == path[0]]
            if len(of_problem) > per_problem:
                expected.remove(of_problem[0])
            expected = expected[-capacity:]
    assert _names(buffer) == expected
    assert len(buffer) <= capacity
    assert all(n <= per_problem for n in Counter(p["problem_id"] for p in buffer.paths).values())

    again = ReplayBuffer(capacity, per_problem)
    again.load_state_dict(json.loads(json.dumps(buffer.state_dict())))
    assert again.paths == buffer.paths
    for number in (1, 3, 99):
        sample = buffer.sample(number)
        assert sample == again.sample(number)
        assert len(sample) == min(number, len(buffer))
        assert len({json.dumps(path) for path in sample}) == len(sample), "none twice"


def test_samples_are_of_seed_and_update() -> None:
    buffer, other = ReplayBuffer(40, 40), ReplayBuffer(40, 40, seed=1)
    for b in (buffer, other):
        b.add([_tree(p, 10 * n) for p in range(4) for n in range(1, 9)], _policy())
    samples = [buffer.sample(8), buffer.sample(8), other.sample(8)]
    assert all(a != b for i, a in enumerate(samples) for b in samples[:i])
    drawn = Counter(path["ids"][-5] for _ in range(400) for path in buffer.sample(8))
    # 3,200 draws of 8 equally likely kinds: 400 each, with a standard error of 18 at most; four of them.
    assert all(abs(number - 400) < 72 for number in drawn.values())


def test_a_checkpoint_is_read_with_weights_only() -> None:
    buffer = ReplayBuffer(9, 9)
    buffer.add([_tree(0, 10), _tree(1, 10)], _policy())
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == buffer.state_dict()


def test_a_buffer_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity and per_problem must be 1 or more, not 5 and 0"):
        ReplayBuffer(5, 0)


# -- several processes --------------------------------------------------------------------------------


def _run() -> ReplayBuffer:
    buffer = ReplayBuffer(capacity=7, per_problem=2)
    for update in range(3):
        # The last batch is short: the second process has no tree of it.
        batch = [_tree(p, 10 * (update + 1), (1.0, 0.0, 1.0)) for p in range(5 if update < 2 else 1)]
        buffer.add(batch[rank() :: world_size()], _policy())
    return buffer


def _process(number: int, folder: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=number, world_size=2
    )
    Path(folder, f"{number}.json").write_text(json.dumps(_run().state_dict()))
    distributed.destroy_process_group()


def test_two_processes_hold_what_one_holds() -> None:
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(_process, (folder,), nprocs=2, start_method="fork")
        states = [json.loads(Path(folder, f"{number}.json").read_text()) for number in range(2)]
    assert states[0] == states[1] == _run().state_dict()
