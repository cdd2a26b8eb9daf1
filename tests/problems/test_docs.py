"""The snippets of the page on problems run in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "problems.md"


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for place, block in enumerate(blocks, start=1):
        exec(compile(block, f"problems.md, snippet {place}", "exec"), names)
    assert len(names["parts"]["test"]) + len(names["parts"]["train"]) == 1000  # type: ignore[index]
    assert len(names["heldout"]) == 200  # type: ignore[arg-type]
