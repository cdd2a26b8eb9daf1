"""Ready configurations: each is parsed, and that of Qwen goes the whole road with a small Qwen2."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.pytorch.strategies import ModelParallelStrategy

from rftt.cli import main
from rftt.cli.command import Command
from rftt.cli.commands import evaluate, search, solve, tune, warmup
from rftt.cli.configs import ready, section
from rftt.cli.options import read_options
from rftt.policies.loading import load_model, load_policy
from rftt.search.strategies import MCTS, Constant

WITH_CONFIG: dict[str, Command] = {
    "search": search.COMMAND, "warmup": warmup.COMMAND, "tune": tune.COMMAND,
    "evaluate": evaluate.COMMAND, "solve": solve.COMMAND,
}  # fmt: skip
SMALL = [
    "--policy.backend", "transformers", "--policy.dtype", "float32", "--policy.engine", "null",
    "--search.max_tokens", "96",
]  # fmt: skip
TRAINING = [
    "--trainer.accelerator",
    "cpu",
    "--trainer.enable_progress_bar",
    "false",
    "--trainer.devices",
    "1",
]


def test_there_are_the_four() -> None:
    assert list(ready()) == ["llama-3.1-8b", "nano", "qwen2.5-7b", "smollm2"]


@pytest.mark.parametrize("name", ["llama-3.1-8b", "nano", "qwen2.5-7b", "smollm2"])
def test_every_section_is_parsed(name: str) -> None:
    for command, described in WITH_CONFIG.items():
        question = ["q"] if command == "solve" else []
        _, options = read_options(described, command, [name], question)
        assert options.policy.init_args.model == options.model


def test_the_settings_are_the_papers() -> None:
    parser, options = read_options(warmup.COMMAND, "warmup", ["qwen2.5-7b"], [])
    assert (options.tuner.learning_rate, options.epochs, options.batch_size) == (7e-6, 10, 32)
    assert options.tuner.warmup_steps == 10
    del options["policy"]
    parts = parser.instantiate(options)
    assert parts.searcher == MCTS(exploration=Constant(2.0), width=2)
    assert (parts.search.budget.rollouts, parts.search.max_depth) == (16, 15)
    assert isinstance(parts.trainer.strategy, ModelParallelStrategy)
    _, tuned = read_options(tune.COMMAND, "tune", ["qwen2.5-7b"], [])
    assert tuned.learner.init_args.kl_coef == 0.01
    assert (tuned.search.budget.rollouts, tuned.search.max_depth) == (16, 18)


def test_nothing_is_left_of_a_part_that_another_takes_the_place_of(here: Path) -> None:
    (here / "mine.yaml").write_text("searcher: REBASE\nlearner: rftt.learners.presets.GRPO\n")
    _, options = read_options(tune.COMMAND, "tune", ["nano"], ["--config", "mine.yaml"])
    assert options.searcher.class_path == "rftt.search.strategies.REBASE"
    assert options.learner.init_args.kl_coef == 0.04, "GRPO's own"
    assert "credit" not in options.learner.init_args
    line = [
        "--searcher",
        "BeamSearch",
        "--searcher.width",
        "3",
        "--learner=rftt.learners.presets.DrGRPO",
    ]
    _, options = read_options(tune.COMMAND, "tune", ["nano"], line)
    assert options.searcher.init_args.width == 3
    assert options.learner.init_args.kl_coef == 0.0
    assert (options.search.max_tokens, options.tuner.learning_rate) == (320, 2e-4), "the rest stays"
    _, options = read_options(tune.COMMAND, "tune", ["nano"], ["--searcher.width", "3"])
    assert options.searcher.init_args.simulations_per_round == 16


def test_a_file_can_be_printed_changed_and_used(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config"]) == 0
    assert "ready configurations: llama-3.1-8b, nano" in capsys.readouterr().out
    assert main(["config", "nano.yaml"]) == 0
    (here / "my.yaml").write_text(capsys.readouterr().out.replace("value: 1.0", "value: 1.5"))
    assert section("my.yaml", "search")["searcher"]["init_args"]["exploration"]["init_args"] == {
        "value": 1.5
    }
    assert main(["config", "search"]) == 0
    printed = capsys.readouterr().out
    assert "# the strategy." in printed
    assert "rollouts: 16" in printed


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Give Ctrl-C back, which Lightning takes away when it was pressed."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


STOPPING = """
from rftt import MathVerifier

class Stopping(MathVerifier):
    calls = 0

    def judge(self, states):
        type(self).calls += 1
        if self.calls == 2:
            raise KeyboardInterrupt
        return super().judge(states)
"""


def test_qwen_goes_the_whole_road_one_step_of_each_phase(
    here: Path, qwen: Path, interrupts: None, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", "qwen2.5-7b"]
    line = [
        *config, "warmup", "--model", str(qwen), "--output", "warm", "--problems", "arithmetic:warmup:3",
        "--policy.functions", "[analysis, subquestion, next_step]", *SMALL, *TRAINING,
        "--trainer.strategy", "auto", "--epochs", "1", "--search.budget.rollouts", "8",
        "--searcher.simulations_per_round", "8",
    ]  # fmt: skip
    assert main(line) == 0
    warmed, _ = load_model("warm/model")
    assert type(warmed).__name__ == "Qwen2ForCausalLM"
    base, _ = load_model(qwen)
    assert warmed.lm_head.weight.shape[0] > base.lm_head.weight.shape[0]
    capsys.readouterr()
    assert main(line) == 0
    assert capsys.readouterr().out == "finished before: the model is in warm/model\n"

    (here / "stopping.py").write_text(STOPPING)
    line = [
        *config, "tune", "--model", "warm/model", "--output", "tuned", "--problems",
        "arithmetic:reinforce:2", "--batch_size", "1", *SMALL, "--search.max_tokens", "48", *TRAINING,
        "--checkpoint_every", "1", "--searcher.simulations_per_round", "3",
        "--search.budget.rollouts", "3", "--verifier", "stopping.Stopping",
    ]  # fmt: skip
    try:
        assert main(line) == 130
        said = capsys.readouterr().err
        assert "goes on from there:\n  rftt --config qwen2.5-7b tune --model warm/model" in said
        assert main(line) == 0
        assert sys.modules["stopping"].Stopping.calls == 3, "the first update was not repeated"
    finally:
        sys.modules.pop("stopping", None)
    assert len(list((here / "tuned" / "metrics").glob("version_*/metrics.csv"))) == 2
    assert load_policy("tuned/model").tokens.grammar.functions

    line = [*config, "evaluate", "--model", "tuned/model", "--output", "found", *SMALL]
    short = ["--search.budget.rollouts", "1", "--search.max_tokens", "24"]
    assert main([*line, *short, "--problems", "arithmetic:heldout:1"]) == 0
    assert "of 1, 95% interval" in capsys.readouterr().out
    line = [*config, "solve", "2+3", "--model", "tuned/model", *SMALL]
    assert main([*line, *short]) == 0
    assert "rollouts" in capsys.readouterr().out


@pytest.mark.parametrize(
    "learner",
    [
        ["rftt.learners.ppo.PPO", "--learner.clip_low", "0.1"],
        ["rftt.learners.presets.RLOO", "--lora_rank", "2"],
    ],
)
def test_any_learner_is_given_what_it_needs(here: Path, qwen: Path, learner: list[str]) -> None:
    from tests.models import functional_policy

    policy = functional_policy(brief=True)
    policy.sampler.model.save_pretrained("model")  # type: ignore[attr-defined]
    policy.tokenizer.save_pretrained("model")
    line = [
        "tune", "--model", "model", "--output", "tuned", "--problems", "arithmetic:reinforce:1",
        "--searcher", "BestOfN", "--search.budget.rollouts", "2", "--search.max_tokens", "24",
        *TRAINING, "--batch_size", "1", "--learner", *learner,
    ]  # fmt: skip
    assert main(line) == 0
    assert load_policy("tuned/model").tokens.grammar.functions
