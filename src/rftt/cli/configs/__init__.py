"""Ready configurations, and how one is read. Each has a section for each command that it is for."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml


def ready() -> dict[str, str]:
    """Return the text of each ready configuration, by its name without ``.yaml``."""
    files = sorted(resources.files(__name__).iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
        for file in files
        if file.name.endswith(".yaml")
    }


def section(file: str, command: str) -> dict[str, Any]:
    """Return the options that a configuration has for a command.

    Args:
        file: a path, or the name of a ready configuration where there is no such file.
        command: the command.

    Raises:
        FileNotFoundError: if it is neither.
        ValueError: if it is no YAML, or has no section for the command.
    """
    sections = flat(file)
    options = sections.get(command)
    if not isinstance(options, dict):
        names = ", ".join(name for name, value in sections.items() if isinstance(value, dict))
        raise ValueError(
            f"{file}: no section {command!r}; it has {names or 'none'}. A file with the options of one "
            f"command alone goes after the command: rftt {command} --config {file}"
        )
    return options


def flat(file: str) -> dict[str, Any]:
    """Return all that a configuration holds.

    Raises:
        FileNotFoundError: if there is neither such a file nor such a ready configuration.
        ValueError: if it is no YAML, or holds no options.
    """
    texts = ready()
    if Path(file).is_file():
        text = Path(file).read_text(encoding="utf-8")
    elif (name := file.removesuffix(".yaml")) in texts:
        text = texts[name]
    else:
        raise FileNotFoundError(
            f"{file}: no such file, and no ready configuration; those are {', '.join(texts)}"
        )
    try:
        options = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(options, dict):
        raise ValueError(f"{file}: holds no options; rftt config NAME prints a file that does")
    return options
