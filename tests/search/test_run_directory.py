"""A search that is killed and started again ends as if it had never been killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import MCTS, Budget, MathVerifier, Problem, SearchTree, TabularPolicy, run_search, save_trees
from rftt.search.run_directory import RunDirectory
from tests.strategies import budgets, policies, problems, searchers

SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[2])
from tests.search.test_run_directory import POLICY, search
from rftt import Extension, Policy

class Slow(Policy):
    grammar = POLICY.grammar
    def prior(self, states): return POLICY.prior(states)
    def extend(self, requests):
        time.sleep(0.012)
        return POLICY.extend(requests)

search(Slow(), sys.argv[1])
"""


def _policy() -> TabularPolicy:
    """Three levels of three replies each."""
    from rftt import Grammar, Reply

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


def search(policy: object, folder: Path | str | None) -> list[SearchTree]:
    return run_search(
        [Problem(f"p{i}", "?", "3") for i in range(5)],
        MCTS(openers="sampled", width=3, parallel=2),
        policy,  # type: ignore[arg-type]
        MathVerifier(),
        budget=Budget(rollouts=60),
        at_once=2,
        folder=folder,
    )


def _bytes(trees: list[SearchTree], path: Path) -> bytes:
    save_trees(path, trees)
    return path.read_bytes()


def test_killed_at_twenty_moments_and_resumed_the_trees_are_the_same(tmp_path: Path) -> None:
    whole = _bytes(search(POLICY, None), tmp_path / "whole.jsonl")
    rng = Random(0)
    lines = []
    for moment in range(20):
        folder = tmp_path / str(moment)
        rounds = folder / "rounds.jsonl"
        run = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(Path.cwd())])
        while not rounds.exists() and run.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.7))
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL, "it was over before it could be killed"
        lines.append(rounds.read_bytes().count(b"\n"))
        assert _bytes(search(POLICY, folder), tmp_path / "resumed.jsonl") == whole
        assert _bytes(search(POLICY, folder), tmp_path / "again.jsonl") == whole
    assert len(set(lines)) > 5, "the moments were not different ones"


@given(policies(), searchers, budgets, st.integers(1, 3), st.data())
def test_cut_anywhere_the_record_still_gives_the_same_trees(
    policy: TabularPolicy, searcher: object, budget: Budget, at_once: int, data: st.DataObject
) -> None:
    import tempfile

    def run(folder: str | None) -> list[SearchTree]:
        return run_search(
            problems(3), searcher, policy, MathVerifier(), budget=budget, max_depth=6,  # type: ignore[arg-type]
            at_once=at_once, folder=folder,
        )  # fmt: skip

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = _bytes(run(None), folder / "whole")
        run(name)
        record = (folder / "rounds.jsonl").read_bytes()
        cut = data.draw(st.integers(0, len(record)))
        (folder / "rounds.jsonl").write_bytes(record[:cut])
        assert _bytes(run(name), folder / "resumed") == whole
        assert (folder / "rounds.jsonl").read_bytes() == record


def test_another_search_is_refused_by_name(tmp_path: Path) -> None:
    search(POLICY, tmp_path)
    with pytest.raises(ValueError, match="another budget"):
        run_search(
            [Problem(f"p{i}", "?", "3") for i in range(5)],
            MCTS(openers="sampled", width=3, parallel=2), POLICY, MathVerifier(),
            budget=Budget(rollouts=61), at_once=2, folder=tmp_path,
        )  # fmt: skip


def test_a_line_that_is_not_a_round_is_named(tmp_path: Path) -> None:
    (tmp_path / "rounds.jsonl").write_text('{"chains": []}\n')
    with pytest.raises(ValueError, match=r"rounds\.jsonl, line 1: not a round"):
        list(RunDirectory(tmp_path, {}).recorded())


def test_arguments_are_readable(tmp_path: Path) -> None:
    search(POLICY, tmp_path)
    arguments = json.loads((tmp_path / "search.json").read_text())
    assert arguments["seed"] == 0
    assert arguments["searcher"]["width"] == 3
    assert arguments["searcher"]["selection"] == "rftt.search.selection.uct"


@given(st.integers(1, 4))
def test_waiting_problems_change_no_tree(at_once: int) -> None:
    alone = search(POLICY, None)
    trees = run_search(
        [tree.problem for tree in alone], MCTS(openers="sampled", width=3, parallel=2), POLICY,
        MathVerifier(), budget=Budget(rollouts=60), at_once=at_once,
    )  # fmt: skip
    assert [t.segment for t in trees] == [t.segment for t in alone]
