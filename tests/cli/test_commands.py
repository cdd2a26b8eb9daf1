"""The commands on nano: what they print and leave, and that parts are swapped by class path."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rftt.cli import COMMANDS, main
from rftt.search.tree.storage import load_trees

NANO = [
    "--model", "nano", "--policy.prompted", "true",
    "--policy.functions", "[analysis, subquestion, next_step]", "--search.max_tokens", "48",
]  # fmt: skip

MINE = """
from rftt import MathVerifier

class Impatient(MathVerifier):
    calls = 0
    stops_at = {stops_at}

    def judge(self, states):
        type(self).calls += 1
        if self.calls == self.stops_at:
            raise KeyboardInterrupt
        return super().judge(states)
"""


def _search(output: str, *more: str) -> list[str]:
    problems = ["--problems", "arithmetic:warmup:2", "--output", output]
    return ["search", *NANO, *problems, "--search.budget.rollouts", "3", *more]


def test_trees_are_searched_and_shown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_search("run", "--searcher", "BestOfN")) == 0
    assert "2 trees" in capsys.readouterr().out
    trees = load_trees(here / "run" / "trees.jsonl")
    assert [tree.visits[0] for tree in trees] == [3, 3]
    assert main(["show", "run", "--tree", "1"]) == 0
    printed = capsys.readouterr().out
    assert trees[1].problem.question in printed
    assert "next_step" in printed
    assert trees[1].problem.id in (here / "run" / "tree.html").read_text()
    assert main(["show", "run", "--tree", "7"]) == 2
    assert "give a place from 0 to 1" in capsys.readouterr().err


def test_a_question_is_answered_with_its_support(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", "7+5", *NANO, "--search.budget.rollouts", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("7+5")
    assert lines[-1].startswith("answer: 12 (")
    assert "of 8 rollouts" in lines[-1]


def test_a_model_is_measured_and_a_finished_evaluation_is_read(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": "2+3", "answer": "5"}, {"question": "9-4", "answer": "5"}]
    (here / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    line = ["evaluate", *NANO, "--problems", "problems.jsonl", "--output", "run"]
    assert main([*line, "--search.budget.rollouts", "2"]) == 0
    first = capsys.readouterr().out
    assert "of 2, 95% interval" in first
    assert main([*line, "--search.budget.rollouts", "2"]) == 0
    assert capsys.readouterr().out == first
    assert main([*line, "--search.budget.rollouts", "3"]) == 2
    assert "choose another directory" in capsys.readouterr().err


def test_a_search_that_was_stopped_says_how_it_goes_on_and_does(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = _search("run", "--verifier", "impatient.Impatient")
    (here / "impatient.py").write_text(MINE.format(stops_at=3))
    try:
        assert main(line) == 130
        said = capsys.readouterr().err
        assert "goes on from there:\n  rftt search --model nano" in said
        assert not (here / "run" / "trees.jsonl").exists()
        impatient = sys.modules["impatient"]
        calls, impatient.Impatient.stops_at = impatient.Impatient.calls, None
        assert main(line) == 0
        assert impatient.Impatient.calls == calls + 1, "two rounds of three were recorded"
    finally:
        sys.modules.pop("impatient", None)
    assert [tree.visits[0] for tree in load_trees(here / "run" / "trees.jsonl")] == [3, 3]


def test_what_keeps_nothing_says_so_when_it_is_stopped(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "hasty.py").write_text(MINE.format(stops_at=1))
    try:
        assert main(["solve", "7+5", *NANO, "--verifier", "hasty.Impatient"]) == 130
    finally:
        sys.modules.pop("hasty", None)
    assert "nothing was kept; with --output FOLDER" in capsys.readouterr().err


def test_help_is_quick_and_names_every_command() -> None:
    code = (
        "import sys; from rftt.cli import main; main(['--help']);"
        "print(*sorted({'torch', 'jsonargparse', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *page, imported = done.stdout.splitlines()
    assert imported == ""
    assert all(any(line.split()[:1] == [name] for line in page) for name in COMMANDS)


def test_options_are_listed_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "--search.budget.rollouts" in printed
    assert "rftt.search.strategies.GumbelMCTS" in printed
