"""``rftt demo``: the whole loop on nano."""

from __future__ import annotations

from pathlib import Path

from rftt.cli.command import Command
from rftt.demo.command import run_demo
from rftt.demo.settings import DemoSettings


def demo(output: Path = Path("runs/demo"), seed: int = 0) -> None:
    """Run warm-up search, fine-tuning, reinforcement and evaluation of nano on arithmetic.

    The last line printed is one JSON object. A run that was killed goes on when started again.

    Args:
        output: folder for results.
        seed: decides the problems and every draw.
    """
    run_demo(output, DemoSettings(seed=seed))


COMMAND = Command(demo)
