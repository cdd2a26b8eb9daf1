"""Run the command line: ``rftt demo``, or ``python -m rftt``, which is the same."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status."""
    parser = argparse.ArgumentParser(prog="rftt", description="Reasoning with functional tokens.")
    commands = parser.add_subparsers(dest="command", metavar="command")
    demo = commands.add_parser(
        "demo",
        help="the loop on nano, some minutes on two cores",
        description="Warm-up search, fine-tuning, reinforcement and evaluation of the embedded nano "
        "model on arithmetic. The last line printed is one JSON object. A run that was killed goes on "
        "when started again.",
    )
    demo.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder for results")
    demo.add_argument("--seed", type=int, default=0)
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("--output", "--seed"):
        given = ["demo", *given]
    chosen = parser.parse_args(given)
    # Only now: torch and lightning take seconds that a request for help need not wait.
    from rftt.demo.command import run_demo
    from rftt.demo.settings import DemoSettings

    try:
        run_demo(chosen.output, DemoSettings(seed=chosen.seed))
    except (FileNotFoundError, ValueError) as error:
        print(f"rftt: {error}", file=sys.stderr)
        return 2
    return 0
