"""The tutorials' snippets run in order, and end where they say."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize(
    ("tutorial", "number", "defined"),
    [
        ("write-a-search-strategy", 11, {"EpsilonGreedy", "AdaptiveBranching", "violation"}),
        ("math-answers", 1, {"verifier"}),
        ("evaluation", 2, {"result", "report", "found"}),
        ("write-a-policy", 5, {"RightBook", "violation", "report", "policy"}),
        ("write-a-verifier", 7, {"Exact", "AnyState", "Right", "Lines", "both", "violation"}),
        ("write-a-learner", 7, {"Reinforce", "AddsUp", "ImitatesTheBetter", "violation", "after"}),
    ],
)
def test_the_tutorial_runs(
    tutorial: str, number: int, defined: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (DOCS / f"{tutorial}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == number
    # A module, so that what the snippets define can be pickled.
    module = ModuleType("tutorial")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = vars(module)
    for place, block in enumerate(blocks, start=1):
        exec(compile(block, f"{tutorial}.md, snippet {place}", "exec"), names)
    assert defined <= names.keys()
