"""A search that is killed and started again ends as if it had never been killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from rftt import (
    MCTS,
    BeamSearch,
    Budget,
    Expansion,
    GenerationRequest,
    Grammar,
    MathVerifier,
    Problem,
    SearchConfig,
    Searcher,
    SearchTree,
    State,
    Step,
    Verdict,
    Verifier,
    run_search,
)
from rftt.search.engine.run_directory import RunDirectory
from rftt.search.tree.storage import save_trees
from rftt.testing.finite.tabular import Reply, TabularPolicy
from tests.strategies import budgets, policies, problems, searchers

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
from tests.search import test_run_directory as tests

tests.PAUSE = 0.012
tests.search(tests.SLOW, sys.argv[1])
"""

PAUSE = 0.0


def _policy() -> TabularPolicy:
    """Three levels of three replies each."""

    names = ("next_step", "next_step", "next_step")
    table = {}
    level: list[tuple[str, ...]] = [()]
    for depth in range(3):
        for path in level:
            replies = [Reply(name, f"{depth}{i}", (i + 1) / 6) for i, name in enumerate(names)]
            table[path] = replies
        level = [(*path, reply.text) for path in level for reply in table[path]]
    for path in level:
        table[path] = [Reply("output", f"\\boxed{{{sum(map(int, path)) % 5}}}", 1.0)]
    return TabularPolicy(Grammar.default(), table)


POLICY = _policy()


class _Slow(TabularPolicy):
    """Takes its time where it is told to."""

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        time.sleep(PAUSE)
        return super().extend(requests)


SLOW = _Slow(POLICY.grammar, POLICY.table)


def search(policy: object, directory: Path | str | None) -> list[SearchTree]:
    return run_search(
        [Problem(f"p{i}", "?", "3") for i in range(5)],
        MCTS(expansion="sample", width=3, simulations_per_round=2),
        policy,  # type: ignore[arg-type]
        MathVerifier(),
        SearchConfig(Budget(rollouts=60), max_concurrent_trees=2),
        directory=directory,
    )


def _bytes(trees: list[SearchTree], path: Path) -> bytes:
    save_trees(path, trees)
    return path.read_bytes()


@pytest.mark.parametrize(("moments", "different"), [(4, 2), pytest.param(20, 6, marks=pytest.mark.slow)])
def test_killed_at_some_moments_and_resumed_the_trees_are_the_same(
    moments: int, different: int, tmp_path: Path
) -> None:
    unbroken = _bytes(search(POLICY, None), tmp_path / "unbroken.jsonl")
    rng = Random(0)
    lines = []
    for moment in range(moments):
        folder = tmp_path / str(moment)
        rounds = folder / "rounds.jsonl"
        run = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(Path.cwd())])
        while not rounds.exists() and run.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.7))
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL, "it was over before it could be killed"
        lines.append(rounds.read_bytes().count(b"\n"))
        assert _bytes(search(SLOW, folder), tmp_path / "resumed.jsonl") == unbroken
        assert _bytes(search(SLOW, folder), tmp_path / "again.jsonl") == unbroken
    assert len(set(lines)) >= different, "the moments were not different ones"


@given(policies(), searchers, budgets, st.integers(1, 3), st.data())
def test_cut_anywhere_the_record_still_gives_the_same_trees(
    policy: TabularPolicy, searcher: object, budget: Budget, limit: int, data: st.DataObject
) -> None:
    def run(directory: str | None) -> list[SearchTree]:
        return run_search(
            problems(3), searcher, policy, MathVerifier(),  # type: ignore[arg-type]
            SearchConfig(budget, max_depth=6, max_concurrent_trees=limit), directory=directory,
        )  # fmt: skip

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unbroken = _bytes(run(None), folder / "unbroken")
        run(name)
        record = (folder / "rounds.jsonl").read_bytes()
        cut = data.draw(st.integers(0, len(record)))
        (folder / "rounds.jsonl").write_bytes(record[:cut])
        assert _bytes(run(name), folder / "resumed") == unbroken
        assert (folder / "rounds.jsonl").read_bytes() == record


def test_another_search_is_refused_by_name(tmp_path: Path) -> None:
    search(POLICY, tmp_path)
    with pytest.raises(ValueError, match=r"another config: config.budget.rollouts was 60 and is 61"):
        run_search(
            [Problem(f"p{i}", "?", "3") for i in range(5)],
            MCTS(expansion="sample", width=3, simulations_per_round=2), POLICY, MathVerifier(),
            SearchConfig(Budget(rollouts=61), max_concurrent_trees=2), directory=tmp_path,
        )  # fmt: skip


def test_a_line_that_is_not_a_round_is_named(tmp_path: Path) -> None:
    (tmp_path / "rounds.jsonl").write_text('[{"completions": []}]\n')
    with pytest.raises(ValueError, match=r"rounds\.jsonl, line 1: not a round"):
        list(RunDirectory(tmp_path).rounds())


def test_arguments_are_readable(tmp_path: Path) -> None:
    search(POLICY, tmp_path)
    arguments = json.loads((tmp_path / "search.json").read_text())
    assert arguments["config"]["seed"] == 0
    assert arguments["searcher"]["width"] == 3
    assert arguments["searcher"]["selection"] == "rftt.search.strategies.selection.uct"


@given(st.integers(1, 4))
def test_waiting_problems_change_no_tree(limit: int) -> None:
    alone = search(POLICY, None)
    trees = run_search(
        [tree.problem for tree in alone],
        MCTS(expansion="sample", width=3, simulations_per_round=2), POLICY, MathVerifier(),
        SearchConfig(Budget(rollouts=60), max_concurrent_trees=limit),
    )  # fmt: skip
    assert [t.step for t in trees] == [t.step for t in alone]


class _Loaded(TabularPolicy):
    """A policy with a setting of its own."""

    def __init__(self, temperature: float) -> None:
        super().__init__(POLICY.grammar, POLICY.table)
        self.temperature = temperature


@frozen
class _Strict(Verifier):
    """Gives a reward for right answers."""

    reward: float = 1.0

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [Verdict(self.reward * ("{3}" in state.steps[-1].text)) for state in states]


@frozen
class _Shifting(Searcher):
    """Expands the question for some rounds, and then its first child: code that can be changed."""

    rounds: ClassVar[int] = 3

    def ask(self, tree: SearchTree, rng: Random) -> list[Expansion]:
        return [Expansion(0 if tree.rounds < self.rounds else 1)]


def _run(directory: Path, **changed: Any) -> list[SearchTree]:
    arguments: dict[str, Any] = {
        "problems": [Problem("p0", "?", "3"), Problem("p1", "?", "3")],
        "searcher": MCTS(expansion="sample", width=3),
        "policy": _Loaded(1.0),
        "verifier": _Strict(),
        "config": SearchConfig(Budget(rollouts=9)),
    } | changed
    return run_search(*arguments.values(), directory=directory)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"policy": _Loaded(0.5)}, r"another policy: policy\.temperature was 1\.0 and is 0\.5"),
        ({"policy": POLICY}, r"another policy: policy\.class was .*_Loaded.* and is .*TabularPolicy"),
        ({"verifier": _Strict(0.5)}, r"another verifier: verifier\.reward was 1\.0 and is 0\.5"),
        ({"searcher": MCTS(expansion="sample")}, r"another searcher: searcher\.width was 3 and is 1"),
        ({"config": SearchConfig(Budget(rollouts=9), seed=1)}, r"config\.seed was 0 and is 1"),
        (
            {"problems": [Problem("p0", "?", "3"), Problem("p1", "why?", "3")]},
            r"another problems: problems\.p1",
        ),
    ],
)
def test_a_record_of_another_search_is_refused(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    trees = _run(tmp_path)
    assert [t.parent for t in _run(tmp_path)] == [t.parent for t in trees]
    with pytest.raises(ValueError, match=named):
        _run(tmp_path, **changed)


def test_other_strategy_code_is_refused_at_its_first_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(tmp_path, searcher=_Shifting())
    _run(tmp_path, searcher=_Shifting())
    monkeypatch.setattr(_Shifting, "rounds", 2)
    with pytest.raises(
        ValueError,
        match=r"round 2 of 'p0': the strategy asks for 1 at node 1 .* the record has 1 at node 0",
    ):
        _run(tmp_path, searcher=_Shifting())


def test_how_fast_trees_grow_may_change(tmp_path: Path) -> None:
    trees = _run(tmp_path)
    record = (tmp_path / "rounds.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "rounds.jsonl").write_bytes(b"".join(record[:3]))
    config = SearchConfig(Budget(rollouts=9), max_concurrent_trees=1, streaming=True)
    assert [t.parent for t in _run(tmp_path, config=config)] == [t.parent for t in trees]


@pytest.mark.parametrize("score", [lambda tree, node: 0.0])
def test_a_lambda_is_refused_with_the_reason(tmp_path: Path, score: Any) -> None:
    with pytest.raises(ValueError, match=r"score is a lambda, .*cannot be told apart"):
        _run(tmp_path, searcher=BeamSearch(score=score))


def test_a_second_process_in_one_directory_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[2]);"
        "from rftt.search.engine.run_directory import RunDirectory\n"
        "with RunDirectory(sys.argv[1]): print('locked', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(Path.cwd())], stdout=subprocess.PIPE
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(BlockingIOError, match=f"pid {other.pid}"):
            _run(tmp_path)
    finally:
        other.kill()
        other.communicate()
    assert _run(tmp_path), "a killed process holds no lock"
