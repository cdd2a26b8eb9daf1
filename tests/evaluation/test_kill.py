"""A comparison that is killed, at whatever moment, and started again gives the same figures."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from attrs import evolve

from rftt import (
    MCTS,
    BestOfN,
    Budget,
    GenerationRequest,
    Grammar,
    MathVerifier,
    Problem,
    SearchConfig,
    Step,
)
from rftt.evaluation.compare import Arm, compare
from rftt.testing.finite.tabular import Reply, TabularPolicy

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
from tests.evaluation import test_kill as tests

tests.PAUSE = 0.15
tests.run(sys.argv[1])
"""

PAUSE = 0.0


class _Slow(TabularPolicy):
    """Takes its time where it is told to."""

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        time.sleep(PAUSE)
        return super().extend(requests)


POLICY = _Slow(
    Grammar.default(),
    {
        (): [Reply("next_step", "so \\boxed{1/2}", 0.3), Reply("analysis", "halve it", 0.7)],
        ("halve it",): [
            Reply("next_step", "so \\boxed{0.5}", 0.4),
            Reply("next_step", "so \\boxed{2}", 0.6),
        ],
    },
)
PROBLEMS = [Problem(f"p{i}", "?", "1/2", {"level": i % 2}) for i in range(6)]


def _arms() -> dict[str, Arm]:
    verifier, config = MathVerifier(), SearchConfig(Budget(rollouts=12))
    search = MCTS(expansion="sample", simulations_per_round=1)
    return {
        "mcts": Arm(search, POLICY, verifier, config),
        "samples": Arm(BestOfN(), POLICY, verifier, config, seeds=(0, 1)),
        "again": Arm(search, POLICY, verifier, evolve(config, seed=1)),
    }


def run(directory: Path | str) -> None:
    compare(PROBLEMS, _arms(), by=("level",), directory=directory)


def _written(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*/*/rounds.jsonl"))


def test_a_killed_comparison_gives_the_same_figures(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    killed.mkdir()
    run(whole)
    positions = []
    for share in (0.2, 0.5, 0.8):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(killed), str(Path.cwd())])
        while _written(killed) < share * _written(whole) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
        positions.append((_written(killed), len(list(killed.glob("*/evaluation.json")))))
    assert not (killed / "report.json").exists()
    assert positions[-1][1] > 0, "an arm was finished before the last kill"
    run(killed)
    for name in ("report.json", "report.md"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), f"killed at {positions}"


def test_another_search_in_the_midst_of_an_arm_is_refused(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path), str(Path.cwd())])
    while _written(tmp_path) == 0 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "mcts" / "evaluation.json").exists()
    other = evolve(_arms()["mcts"], searcher=MCTS(expansion="sample", simulations_per_round=2))
    with pytest.raises(ValueError, match="simulations_per_round was 1 and is 2"):
        compare(PROBLEMS, {"mcts": other}, directory=tmp_path)
