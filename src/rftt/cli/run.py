"""Running a command: its options read, its parts made, and a word on what went wrong."""

from __future__ import annotations

import gc
import logging
import shlex
import sys
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Final

from rftt.cli import COMMANDS, INTERRUPTED
from rftt.cli.command import NAME, Command
from rftt.cli.mistakes import explained, hint
from rftt.cli.options import read_options

MISTAKE: Final = 2


def run_command(files: Sequence[str], line: Sequence[str]) -> int:
    """Run a command and return the exit status.

    Args:
        files: configurations with a section for each command; later ones win.
        line: the command and its options, which win over all files.
    """
    if (here := str(Path.cwd())) not in sys.path:
        # Classes of the user's, in the folder where the command is given.
        sys.path.append(here)
    try:
        with _log_shown():
            return _run(files, line)
    except (ImportError, OSError, ValueError) as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return MISTAKE


@contextmanager
def _log_shown() -> Iterator[None]:
    """Show what the library logs, and leave other libraries' logs as they are."""
    log, handler = logging.getLogger(NAME), logging.StreamHandler()
    before = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def _run(files: Sequence[str], line: Sequence[str]) -> int:
    if not line or line[0] not in COMMANDS:
        wrong = line[0] if line else ""
        known = ", ".join(COMMANDS)
        raise ValueError(f"{wrong!r} is not a command: give one of {known}{hint(wrong, COMMANDS)}")
    name = line[0]
    command: Command = import_module(f"rftt.cli.commands.{name}").COMMAND
    # attrs makes a class with slots anew. Until it is collected, the first one has the same name, and
    # a class that is given by its name alone would be one of two.
    gc.collect()
    try:
        parser, options = read_options(command, name, files, line[1:])
    except (ArgumentError, ValueError) as error:
        raise ValueError(explained(str(error), command.parser(name, command.parts))) from error
    except SystemExit as done:
        # After --help or --print_config.
        return int(done.code or 0)
    try:
        command(parser, options)
    except KeyboardInterrupt:
        print(_stopped(files, line, options.get("output")), file=sys.stderr)
        return INTERRUPTED
    return 0


def _stopped(files: Sequence[str], line: Sequence[str], output: Path | None) -> str:
    """Return what to say of a command that was stopped: how it goes on."""
    if output is None:
        return f"\n{NAME}: stopped, and nothing was kept; with --output FOLDER it could go on from here"
    again = shlex.join([NAME, *(word for file in files for word in ("--config", file)), *line])
    return f"\n{NAME}: stopped. What is finished is in {output}, and this goes on from there:\n  {again}"
