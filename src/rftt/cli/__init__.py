"""The command line, ``rftt COMMAND``: each command composes parts of the library.

``docs/command-line.md`` shows them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

COMMANDS: Final = {
    "demo": "the loop on nano, some minutes on two cores",
    "search": "search problems and keep the trees",
    "warmup": "teach a model the functional tokens, from its own trees",
    "tune": "reinforce a model that has the functional tokens",
    "evaluate": "measure a model on problems with gold answers",
    "solve": "search one question and draw the tree as it grows",
    "show": "look at the trees of a run",
    "config": "write a configuration to begin from",
}
"""The commands, each a module of :mod:`rftt.cli.commands`, and what they do."""

INTERRUPTED: Final = 130
"""The exit status after Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 2 for a mistake in what was asked, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    files = []
    while given[:1] == ["--config"] and len(given) > 1:
        files.append(given[1])
        given = given[2:]
    if given[:1] in (["-h"], ["--help"]):
        print(_usage())
        return 0
    if not files and (not given or given[0] in ("--output", "--seed")):
        given = ["demo", *given]
    # Only now: jsonargparse and what it reads signatures of take seconds that this page need not wait.
    try:
        run = import_module("rftt.cli.run")
        status: int = run.run_command(files, given)
    except KeyboardInterrupt:
        print("rftt: stopped before anything was done; the same command does it", file=sys.stderr)
        return INTERRUPTED
    return status


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: rftt [--config FILE] COMMAND [options]",
            "",
            "Reasoning with functional tokens. Without a command: the demo.",
            "",
            *lines,
            "",
            "  --config FILE  a file with a section for each command: yours, or a ready one by its name",
            "",
            "rftt COMMAND --help lists a command's options; rftt config NAME prints a configuration.",
        ]
    )
