"""The tutorials' snippets run in order, and end where they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize(
    ("tutorial", "number", "defined"),
    [
        ("write-a-search-strategy", 4, {"EpsilonGreedy", "FairEpsilonGreedy", "violation"}),
        ("evaluation", 2, {"result", "report", "found"}),
        ("write-a-learner", 7, {"Reinforce", "AddsUp", "ImitatesTheBetter", "violation", "after"}),
    ],
)
def test_the_tutorial_runs(tutorial: str, number: int, defined: set[str]) -> None:
    text = (DOCS / f"{tutorial}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == number
    names: dict[str, object] = {"__name__": "tutorial"}
    for place, block in enumerate(blocks, start=1):
        exec(compile(block, f"{tutorial}.md, snippet {place}", "exec"), names)
    assert defined <= names.keys()
