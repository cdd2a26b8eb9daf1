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


def test_the_learner_example_runs(tmp_path: Path) -> None:
    policy = functional_policy(brief=True)
    policy.sampler.model.save_pretrained(tmp_path / "model")  # type: ignore[attr-defined]
    policy.tokenizer.save_pretrained(tmp_path / "model")
    code = BLOCKS[2].replace("runs/demo/warmed_up", str(tmp_path / "model"))
    assert str(tmp_path) in code
    assert len(code.splitlines()) <= 17
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
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
    assert len(BLOCKS) == 3
