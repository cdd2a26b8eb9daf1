"""``rftt config``: a configuration to begin from."""

from __future__ import annotations

from rftt.cli import COMMANDS
from rftt.cli.command import Command
from rftt.cli.configs import ready
from rftt.cli.mistakes import hint
from rftt.cli.parser import Parser


def config(name: str | None = None) -> None:
    """Print a configuration: a ready one, or all options of a command with what each is.

    Args:
        name: of a ready configuration or of a command; without it those that there are.
    """
    texts = ready()
    if name is None:
        print(f"ready configurations: {', '.join(texts)}\ncommands: {', '.join(COMMANDS)}")
    elif (known := name.removesuffix(".yaml")) in texts:
        print(texts[known], end="")
    elif name in COMMANDS:
        from rftt.cli.run import run_command

        run_command([], [name, "--print_config=comments"])
    else:
        raise ValueError(
            f"{name!r} is neither a ready configuration ({', '.join(texts)}) nor a command "
            f"({', '.join(COMMANDS)}){hint(name, [*texts, *COMMANDS])}"
        )


def _name(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", help="of a ready configuration, or of a command")


COMMAND = Command(config, skip=frozenset({"name"}), extend=_name)
