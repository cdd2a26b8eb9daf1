"""A wrong option is refused before anything is loaded, and the nearest right one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from rftt.cli import main

PPO = "rftt.learners.ppo.PPO"
GRPO = "rftt.learners.presets.GRPO"


@pytest.mark.parametrize(
    ("line", "wrong", "right"),
    [
        (["serch"], "serch", "search"),
        (
            ["solve", "q", "--serch.budget.rollouts", "3"],
            "serch.budget.rollouts",
            "search.budget.rollouts",
        ),
        (["solve", "q", "--search.budget.rollout", "3"], "rollout", "search.budget.rollouts"),
        (["solve", "q", "--searcher", "BeamSerch"], "BeamSerch", "BeamSearch"),
        (["solve", "q", "--searcher", "BeamSearch", "--searcher.widht", "3"], "widht", "width"),
        (["solve", "q", "--policy.temprature", "1"], "temprature", "temperature"),
        (["tune", "--learner", PPO, "--learner.clip_lo", "0.1"], "clip_lo", "clip_low"),
        (["tune", "--learner", GRPO, "--learner.kl_coeff", "0.1"], "kl_coeff", "kl_coef"),
        (["tune", "--learner", GRPO, "--learner.entropy_coeff", "0.1"], "entropy_coeff", "entropy_coef"),
        (["tune", "--trainer.precison", "32-true"], "trainer.precison", "trainer.precision"),
        (["config", "nanno"], "nanno", "nano"),
    ],
)
def test_the_nearest_option_is_named(
    line: list[str], wrong: str, right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line) == 2
    said = capsys.readouterr().err
    assert wrong in said
    assert f"did you mean {right!r}?" in said


@pytest.mark.parametrize(
    ("text", "wrong", "right"),
    [
        ("searcher: {class_path: BeamSearch, init_args: {widht: 3}}", "widht", "width"),
        ("search: {buget: {rollouts: 3}}", "buget", "budget.rollouts"),
        ("searchr: {class_path: BeamSearch}", "searchr", "searcher"),
    ],
)
def test_the_nearest_key_of_a_file_is_named(
    here: Path, text: str, wrong: str, right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "mine.yaml").write_text(text)
    for line in (["solve", "q", "--config", "mine.yaml"], ["--config", "both.yaml", "solve", "q"]):
        (here / "both.yaml").write_text(f"solve:\n  {text}\n")
        assert main(line) == 2
        said = capsys.readouterr().err
        assert wrong in said
        assert f"did you mean {right!r}?" in said


def test_values_and_files_that_are_wrong_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for line, said in (
        (["solve", "q", "--search.seed", "many"], 'Parser key "search.seed"'),
        (["solve", "q", "--model", "nano", "--policy.dtype", "huge"], "huge"),
        (["solve", "q"], "give --model nano"),
        (["solve", "q", "--model", "/nowhere/at/all"], "does not exist"),
        (["--config", "nowhere.yaml", "solve", "q"], "no ready configuration; those are llama-3.1-8b"),
        (["--config", "nano", "show", "run"], "no section 'show'; it has search, warmup"),
        (["show", "."], "no file of trees there"),
        (["evaluate", "--model", "nano", "--policy.prompted", "true", "--problems", "GSM9K=x"], "GSM9K"),
        (
            ["evaluate", "--model", "nano", "--policy.prompted", "true", "--problems", "arithmetic:x:1"],
            "SPLIT",
        ),
        (["evaluate", "--model", "nano", "--problems", "x"], "Then tune the model"),
    ):
        assert main(line) == 2, line
        assert said in capsys.readouterr().err
