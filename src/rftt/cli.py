"""The command line: ``rftt demo``, and ``python -m rftt``, which is the same."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status."""
    parser = argparse.ArgumentParser(prog="rftt", description="Reasoning with functional tokens.")
    commands = parser.add_subparsers(dest="command", metavar="command")
    demo = commands.add_parser(
        "demo",
        help="the whole loop on nano, about ten minutes on two cores",
        description="Warm-up search, fine-tuning, reinforcement and evaluation of the embedded nano "
        "model on arithmetic. The last line printed is one JSON object. A run that was killed goes on "
        "when started again.",
    )
    demo.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder for results")
    demo.add_argument("--seed", type=int, default=0)
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = parser.parse_args(given if given and not given[0].startswith("--") else ["demo", *given])
    from rftt.demo.command import run_demo

    try:
        run_demo(chosen.output, chosen.seed)
    except (FileNotFoundError, ValueError) as error:
        print(f"rftt: {error}", file=sys.stderr)
        return 2
    return 0
