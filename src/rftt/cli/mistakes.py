"""What was wrong with an option, and which right one is nearest."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Final

from rftt.cli.parser import Parser, imported, part_parser
from rftt.interfaces import Policy, Verifier
from rftt.learners.learner import Learner
from rftt.search.searcher import Searcher

_UNKNOWN: Final = (
    re.compile(r"unrecognized arguments: --(?P<key>[\w.\-]+)"),
    re.compile(r"Option '(?P<key>[^']+)' is not accepted"),
    re.compile(r"Group '(?P<group>[^']+)' does not accept option '(?P<key>[^']+)'"),
)
_PART: Final = re.compile(r"Problem with given class_path '([^']+)'")
_CLASS: Final = re.compile(r"Expected a dot import path string: (\w+)")
_OPTION: Final = re.compile(r"--([\w.]+)")


def explained(message: str, parser: Parser) -> str:
    """Return what was wrong with an option, and the nearest right one if any is near.

    Args:
        message: jsonargparse's.
        parser: the command's.
    """
    if match := _CLASS.search(message):
        return f"no part {match[1]!r}{hint(match[1], map(_name, _classes()))}"
    for pattern in _UNKNOWN:
        if match := pattern.search(message):
            # A part in a file is named with what stands below it.
            key = re.sub(r"\.(class_path|init_args)\b.*", "", match["key"])
            return _unknown(key, match.groupdict().get("group"), _PART.findall(message), parser)
    return message


def hint(wrong: str, known: Iterable[str]) -> str:
    """Return a sentence with the known name that is most like a wrong one; nothing if none is."""
    near = difflib.get_close_matches(wrong, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _unknown(key: str, group: str | None, parts: list[str], parser: Parser) -> str:
    if parts:
        return (
            f"{parts[-1]} has no option {key!r}{hint(key, _options(part_parser(imported(parts[-1]))))}"
        )
    options = _options(parser)
    if group is None:
        return f"no option {key!r}{hint(key, options)}"
    inner = [name.removeprefix(f"{group}.") for name in options if name.startswith(f"{group}.")]
    return f"{group} has no option {key!r}{hint(key, inner)}"


def _options(parser: Parser) -> list[str]:
    """Return the names of all options, those without a default too."""
    return [name for name in _OPTION.findall(parser.format_help()) if not name.endswith(".help")]


def _classes() -> Iterator[type]:
    """Yield all parts that can be chosen by their names."""
    kinds: list[type] = [Policy, Searcher, Verifier, Learner]
    while kinds:
        below: list[type] = kinds.pop().__subclasses__()
        yield from below
        kinds += below


def _name(kind: type) -> str:
    return kind.__name__
