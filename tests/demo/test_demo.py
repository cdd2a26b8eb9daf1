"""The main job, small: what it leaves, what it prints, and that it resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rftt import BestOfN
from rftt.cli import main
from rftt.demo.command import run_demo
from rftt.demo.evaluator import Evaluator
from rftt.demo.measure import Measured
from rftt.demo.settings import DemoSettings
from rftt.evaluation.results import Evaluation, Result
from rftt.policies.loading import load_model
from rftt.search.tree.storage import load_trees

SMALL = DemoSettings(
    heldout=12, rollouts=4, answer_searcher=BestOfN(), warm_up_problems=16, warm_up_epochs=1, updates=2,
    problems_per_update=4, max_tokens=120,
)  # fmt: skip


def test_the_loop_leaves_what_it_promises_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_demo(tmp_path, SMALL)
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(first) == ["prompted", "warmed_up", "reinforced", "intervals", "problems", "seconds"]
    assert first["problems"] == 12
    for arm in ("prompted", "warmed_up", "reinforced"):
        assert set(first[arm]) == {"1", "4", "greedy"}
        for run, accuracy in first[arm].items():
            low, high = first["intervals"][arm][run]
            assert 0 <= low <= accuracy <= high <= 1
    for name in ("training_curve.png", "search_tree.html", "metrics/warm_up/metrics.csv"):
        assert (tmp_path / name).stat().st_size > 100
    assert len(load_trees(tmp_path / "reinforce_trees.jsonl")) == 4
    warmed, _ = load_model(tmp_path / "warmed_up")
    reinforced, _ = load_model(tmp_path / "reinforced")
    changed = [
        name
        for name, value in warmed.state_dict().items()
        if not value.equal(reinforced.state_dict()[name])
    ]
    assert changed

    start = time.monotonic()
    run_demo(tmp_path, SMALL)
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in first.items() if k != "seconds"
    }
    assert time.monotonic() - start < first["seconds"] / 2 + 5


def test_shares_together_are_one_evaluation() -> None:
    right, wrong = (Result("p", 0, "1", mark, 5, ()) for mark in (True, False))
    shares = [
        Measured({"1": Evaluation((right, wrong), {"output": 2})}, 1.0),
        Measured({"1": Evaluation((right,), {"output": 1, "verify": 3})}, 2.0),
    ]
    merged = Measured.merge(shares)
    together = Evaluation((right, wrong, right), {"output": 3, "verify": 3})
    assert merged == Measured({"1": together}, 3.0)
    assert (together.marks, together.tokens) == ((True, False, True), 15)


def test_a_new_process_takes_up_a_run_with_the_same_settings(tmp_path: Path) -> None:
    take_up = "import sys; from pathlib import Path; from rftt.demo.loop import Demo, DemoSettings; "
    take_up += "Demo(Path(sys.argv[1]), DemoSettings(seed=3))"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", take_up, str(tmp_path)], check=True)


def test_an_evaluation_that_fails_is_not_passed_over(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        pytest.raises(RuntimeError, match="the evaluation failed"),
        Evaluator(tmp_path, SMALL) as evaluator,
    ):
        evaluator.submit("nobody", 0)
    assert "nobody does not exist" in capfd.readouterr().err


def test_a_killed_run_leaves_no_evaluation_running(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from rftt.demo.evaluator import Evaluator\n"
        "from rftt.demo.settings import DemoSettings\n"
        "if __name__ == '__main__':\n"
        "    evaluator = Evaluator(Path(sys.argv[1]), DemoSettings())\n"
        "    evaluator.submit('prompted', 0)\n"
        "    print(evaluator.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    run = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    evaluation = int(run.stdout.readline())
    # Late enough that it no longer reads what its parent sends it to begin with.
    while not (tmp_path / "prompted_styles.json").exists():
        time.sleep(0.1)
    run.send_signal(signal.SIGKILL)
    run.wait()
    deadline = time.monotonic() + 10
    while _is_running(evaluation) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_running(evaluation)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_another_seed_in_the_same_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.json").write_text(json.dumps("of another run"))
    assert main(["--output", str(tmp_path), "--seed", "3"]) == 2
    assert "choose another output folder" in capsys.readouterr().err
