"""The options of a command: its defaults, then what files say, then the line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import Namespace

from rftt.cli.command import Command
from rftt.cli.configs import flat, section
from rftt.cli.parser import Parser


def read_options(
    command: Command, name: str, files: Sequence[str], line: Sequence[str]
) -> tuple[Parser, Namespace]:
    """Return the options of a command, and the parser that read them.

    A part begins with the defaults of its class wherever a class is named: nothing is left of the
    settings of another class that a file or a default had in its place.

    Args:
        command, name: the command.
        files: configurations with a section for each command; later ones win.
        line: options, which win over all files. A file after ``--config`` has the options of this
            command alone.

    Raises:
        ArgumentError: for an option that does not exist or has a wrong value.
        FileNotFoundError, ValueError: for a file that is not there, or has no such section.
    """
    line, own = _without_files(line)
    options: Mapping[str, Any] = command.parts
    given = [*(section(file, name) for file in files), *map(flat, own), _classes(line, command.parts)]
    for found in given:
        options = merged(options, _spelled_out(found, command.parts))
    parser = command.parser(name, {part: options[part] for part in command.parts})
    return parser, parser.parse_args([f"--config={json.dumps(options)}", *line])


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return two trees of options as one; the second wins. A part of another class takes the whole place
    of the one before."""
    both = dict(first)
    for key, value in second.items():
        old = first.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and not _is_other(old, value):
            both[key] = merged(old, value)
        else:
            both[key] = value
    return both


def _is_other(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "class_path" in new and new["class_path"] != old.get("class_path")


def _spelled_out(options: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with each part that is given by its class alone as a mapping."""
    return {
        key: {"class_path": value} if key in parts and isinstance(value, str) else value
        for key, value in options.items()
    }


def _without_files(line: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return a line without its files, and the files."""
    rest: list[str] = []
    files: list[str] = []
    words = iter(line)
    for word in words:
        if word.startswith("--config="):
            files.append(word.removeprefix("--config="))
        elif word == "--config":
            files.append(next(words, ""))
        else:
            rest.append(word)
    return rest, files


def _classes(line: Sequence[str], parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts whose classes a line names."""
    found: dict[str, Any] = {}
    for place, word in enumerate(line):
        option, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and option in parts:
            value = value if equals else "".join(line[place + 1 : place + 2])
            if value and not value.startswith("{"):
                found[option] = value
    return found
