"""The road with a model of one's own: its page runs, and so does the example, once."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from rftt.nano.checkpoint import load_nano
from rftt.problems.arithmetic import arithmetic_problems

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, nano, and a file of problems, which is the current one."""
    model, tokenizer = load_nano()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"question": p.question, "answer": p.answer} for p in arithmetic_problems(12, "warmup")]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "bring-a-model.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 6
    # nano has no use for worked examples.
    blocks[0], removed = re.subn(r" *examples=.*\n", "", blocks[0])
    assert removed == 1
    names: dict[str, object] = {"__name__": "page"}
    for place, block in enumerate(blocks, start=1):
        exec(compile(block, f"bring-a-model.md, snippet {place}", "exec"), names)
    printed = capsys.readouterr().out
    assert re.search(r"right rollouts: [1-9]", printed)
    assert re.search(r"round 0: .* paths", printed)
    assert re.search(r"greedy .*%.*vote of 8 .*%", printed)


def _example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("real_model", ROOT / "examples" / "real_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "real_model", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "EXAMPLES", [])
    return module


def _go(example: ModuleType, line: list[str]) -> None:
    road = example.Road(example.argument_parser(None).parse_args(line))
    road.run()
    road.answer()


@pytest.mark.parametrize("tuned", [["--updates", "1"], ["--updates", "1", "--lora"]])
def test_the_example_goes_the_whole_road_and_is_not_gone_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tuned: list[str]
) -> None:
    example = _example(monkeypatch)
    line = [
        *("--model", "model", "--data", "problems.jsonl", "--output", "road", "--rollouts", "4"),
        *("--warm-up-problems", "8", "--problems-per-round", "4", "--max-rounds", "1", "--heldout", "2"),
        *tuned,
    ]
    _go(example, line)
    first = capsys.readouterr().out
    assert "held out, one greedy sample" in first
    for stage in ("warm_up", "iterate", "reinforce"):
        assert (folder / "road" / stage / "model.safetensors").is_file()
    times = {path: path.stat().st_mtime_ns for path in folder.glob("road/*/model.safetensors")}
    _go(example, line)
    assert capsys.readouterr().out.splitlines()[-1] == first.splitlines()[-1]
    assert times == {path: path.stat().st_mtime_ns for path in times}
