"""What the README shows runs, and is as short as it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import functional_policy

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def _run_on_a_tiny_model(block: int, lines: int, folder: Path) -> str:
    policy = functional_policy(brief=True)
    policy.sampler.model.save_pretrained(folder / "model")  # type: ignore[attr-defined]
    policy.tokenizer.save_pretrained(folder / "model")
    code = BLOCKS[block].replace("runs/demo/warmed_up", str(folder / "model"))
    assert str(folder) in code
    assert len(code.splitlines()) <= lines
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_evaluation_example_runs(tmp_path: Path) -> None:
    assert re.search(r"vote of 4: \d+%.*pass@4: \d+%", _run_on_a_tiny_model(2, 9, tmp_path))


def test_the_learner_example_runs(tmp_path: Path) -> None:
    _run_on_a_tiny_model(3, 17, tmp_path)
    assert (tmp_path / "lightning_logs").is_dir()


@pytest.mark.parametrize(
    ("block", "lines", "expected"),
    [(0, 27, r"0 question .*\n.*by vote: \d+"), (1, 30, r"right after \d+ rollouts")],
)
def test_examples_run(block: int, lines: int, expected: str) -> None:
    code = BLOCKS[block]
    assert len(code.splitlines()) <= lines
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(expected, done.stdout, re.DOTALL), done.stdout


def test_there_is_no_example_that_is_not_tested() -> None:
    assert len(BLOCKS) == 4
