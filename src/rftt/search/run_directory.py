"""A folder that a search writes each finished round to, so that a killed search loses nothing.

The folder holds ``search.json``, the arguments of the search, and ``rounds.jsonl``: one line a round,
with all that chance or a model decided in it. Everything else on a tree follows from those, so a search
that is started again with the same folder goes through the recorded rounds without a model, and on
from there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from rftt.interfaces import Segment, Verdict
from rftt.search.storage import verdict_from_json, whole

Priors = tuple[Mapping[str, float], ...]
Chains = tuple[tuple[Segment, ...], ...]
Verdicts = tuple[Verdict, ...]


@frozen
class Round:
    """What came from outside in one round, each in the order in which it was asked for."""

    priors: Priors
    chains: Chains
    verdicts: Verdicts


class RunDirectory:
    """The record of one search.

    Args:
        folder: is made if it is missing.
        arguments: JSON-able; what the rounds depend on.

    Raises:
        ValueError: if the folder is the record of a search with other arguments, naming the first that
            differs, or a line other than the last cannot be read.
    """

    def __init__(self, folder: Path | str, arguments: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rounds = self.folder / "rounds.jsonl"
        self._check(json.loads(json.dumps(arguments)))

    def _check(self, mine: dict[str, Any]) -> None:
        path = self.folder / "search.json"
        if not path.exists():
            with whole(path) as half:
                half.write_text(json.dumps(mine, indent=1))
        held = json.loads(path.read_text())
        for name in mine.keys() | held.keys():
            if mine.get(name) != held.get(name):
                raise ValueError(
                    f"{path} is of a search with another {name}: {held.get(name)!r}, not "
                    f"{mine.get(name)!r}; choose another folder"
                )

    def recorded(self) -> Iterator[Round]:
        """The rounds so far. A last line that was cut short by a kill is taken off the file."""
        if not self._rounds.exists():
            return
        with self._rounds.open("rb+") as file:
            start = 0
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    file.truncate(start)
                    return
                start += len(line)
                try:
                    yield _round_from_json(json.loads(line))
                except (KeyError, TypeError, ValueError) as error:
                    raise ValueError(f"{self._rounds}, line {number}: not a round: {error!r}") from error

    def append(self, finished: Round) -> None:
        """Add a round."""
        line = json.dumps(attrs.asdict(finished), ensure_ascii=False, separators=(",", ":"))
        with self._rounds.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _round_from_json(data: Mapping[str, Any]) -> Round:
    return Round(
        priors=tuple(data["priors"]),
        chains=tuple(tuple(Segment(**segment) for segment in chain) for chain in data["chains"]),
        verdicts=tuple(verdict_from_json(verdict) for verdict in data["verdicts"]),
    )


def describe(setting: Any) -> Any:
    """A setting as JSON-able data that is the same in every process: attrs classes by their fields,
    functions by their names."""
    if attrs.has(type(setting)):
        fields = {f.name: describe(getattr(setting, f.name)) for f in attrs.fields(type(setting))}
        return {"class": f"{type(setting).__module__}.{type(setting).__qualname__}"} | fields
    if callable(setting):
        return f"{setting.__module__}.{setting.__qualname__}"
    if isinstance(setting, Mapping):
        return {str(key): describe(value) for key, value in setting.items()}
    if isinstance(setting, (list, tuple)):
        return [describe(value) for value in setting]
    return setting if isinstance(setting, (str, int, float, bool, type(None))) else repr(setting)
