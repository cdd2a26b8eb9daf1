"""One process, two and four give the same parameters, with uneven shares and with none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.processes import LEARNERS

ROOT = Path(__file__).parents[2]


def _run(kind: str, processes: int, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.training.processes", kind, str(processes), str(output)]
    return subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=500)


def _train(kind: str, processes: int, folder: Path, *more: str) -> dict[str, torch.Tensor]:
    output = folder / f"{processes}.safetensors"
    done = _run(kind, processes, output, *more)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(output)


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize(
    "processes", [2, pytest.param(4, marks=pytest.mark.slow)], ids=lambda n: f"{n}_processes"
)
def test_the_number_of_processes_changes_nothing(kind: str, processes: int, tmp_path: Path) -> None:
    one, many = _train(kind, 1, tmp_path), _train(kind, processes, tmp_path)
    assert one.keys() == many.keys()
    for name, value in one.items():
        torch.testing.assert_close(many[name], value, atol=1e-6, rtol=0)


def test_a_sharded_model_learns_the_same(tmp_path: Path) -> None:
    one, sharded = _train("supervised", 1, tmp_path), _train("supervised", 2, tmp_path, "sharded")
    assert one.keys() == sharded.keys()
    for name, value in one.items():
        torch.testing.assert_close(sharded[name], value, atol=1e-6, rtol=0)


def test_a_sharded_model_is_not_searched_with(tmp_path: Path) -> None:
    done = _run("grpo", 2, tmp_path / "none.safetensors", "sharded")
    assert done.returncode != 0
    assert "a sharded model cannot be searched with" in done.stderr
