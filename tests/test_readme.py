"""What the README shows runs, and is as short as it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


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
    assert len(BLOCKS) == 2
