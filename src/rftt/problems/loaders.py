"""Load problems from files and from Hugging Face's data sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from rftt.problems.fields import Fields, MissingFieldError, Reader, problem_from_row
from rftt.problems.problem import Problem
from rftt.problems.readers.arrow_rows import read_parquet, table_rows
from rftt.problems.readers.csv_rows import read_csv
from rftt.problems.readers.json_rows import read_json_array, read_json_lines
from rftt.problems.readers.rows import Format, Row, format_of
from rftt.problems.sets import SETS, sets_with_fields_of

_READERS: Final = {
    "jsonl": read_json_lines,
    "json": read_json_array,
    "csv": read_csv,
    "parquet": read_parquet,
}
_DEFAULT_FIELDS: Final = Fields()


def load_problems(
    path: Path | str,
    fields: Fields = _DEFAULT_FIELDS,
    *,
    format: Format | None = None,
    reader: Reader | None = None,
) -> list[Problem]:
    """Read all problems of a file: JSON lines, a JSON array, CSV or Parquet, with ``.gz`` or without.

    A number is taken as it is written. What cannot be a problem is refused, never skipped.

    Args:
        path: the file, UTF-8 where it is text.
        fields: which fields to take; ready ones are in :mod:`rftt.problems.sets`.
        format: what the file holds, where its suffix does not say so.
        reader: for other layouts: maps a row to (question, gold answer). Id and metadata are still by
            ``fields``.

    Raises:
        ValueError: naming file and line (of Parquet the row, from 0), for a row that cannot be read, or
            from which no problem can be made; naming both, for two rows with one id; and for a file
            without rows.
        FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    kind = format_of(path) if format is None else format
    if kind not in _READERS:
        raise ValueError(f"unknown format {kind!r}: use one of {', '.join(_READERS)}")
    return _problems(_READERS[kind](path), fields, reader, str(path), path.name)


def problems_from_dataset(
    dataset: Iterable[Mapping[str, Any]],
    fields: Fields = _DEFAULT_FIELDS,
    *,
    reader: Reader | None = None,
    source: str = "dataset",
) -> list[Problem]:
    """Return the problems of a ``datasets.Dataset``, or of any rows.

    Args:
        dataset: the rows, one split.
        fields, reader: as for :func:`load_problems`.
        source: names the rows in messages; an id that no field gives is ``<source>:<row>``.

    Raises:
        ValueError: as :func:`load_problems`, naming the row, from 0; and for a ``DatasetDict``.
    """
    if isinstance(dataset, Mapping):
        raise ValueError(f"{source} has splits; choose one of {', '.join(map(repr, dataset))}")
    rows = (
        Row(f"{source}, row {number}", number, values) for number, values in enumerate(_plain(dataset))
    )
    return _problems(rows, fields, reader, source, source)


def load_dataset_problems(
    path: Path | str,
    fields: Fields = _DEFAULT_FIELDS,
    *,
    split: str,
    name: str | None = None,
    revision: str | None = None,
    reader: Reader | None = None,
) -> list[Problem]:
    """Load the problems of a data set by ``datasets.load_dataset``: a folder, or a name on the hub.

    A folder needs no network. A set on the hub is kept in the cache of ``datasets``.

    Args:
        path: a folder of data files, or a name such as ``openai/gsm8k``.
        fields, reader: as for :func:`load_problems`.
        split: the split, or a part of one: ``test``, ``train[:100]``.
        name: the configuration, for sets that have several.
        revision: the commit on the hub; give one for figures that others shall repeat.

    Raises:
        ValueError: as :func:`problems_from_dataset`.
    """
    from datasets import load_dataset

    dataset = load_dataset(str(path), name, split=split, revision=revision)
    return problems_from_dataset(dataset, fields, reader=reader, source=f"{Path(path).name}/{split}")


def _plain(dataset: Any) -> Iterator[Mapping[str, Any]]:
    # Through Arrow, so that a number comes as it is stored and no image is decoded.
    if hasattr(dataset, "with_format"):
        yield from table_rows(dataset.with_format("arrow").iter(batch_size=1024))
    else:
        yield from dataset


def _problems(
    rows: Iterator[Row], fields: Fields, reader: Reader | None, source: str, name: str
) -> list[Problem]:
    problems: list[Problem] = []
    places: dict[str, str] = {}
    for row in rows:
        try:
            if not problems and not reader and fields == _DEFAULT_FIELDS:
                _refuse_half_a_question(row.values)
            problem = problem_from_row(row.values, fields, f"{name}:{row.number}", reader)
        except MissingFieldError as error:
            known = " or ".join(f"rftt.problems.sets.{name}" for name in sets_with_fields_of(row.values))
            hint = f"; it has those of {known}: pass it as fields" if known else ""
            raise ValueError(f"{row.where}: {error}{hint}") from error
        except ValueError as error:
            raise ValueError(f"{row.where}: {error}") from error
        if problem.id in places:
            raise ValueError(
                f"{row.where}: the id {problem.id!r} is that of {places[problem.id]} too; an id seeds a "
                "problem's random stream and must be its own. Fields(id=None) numbers the rows"
            )
        places[problem.id] = row.where
        problems.append(problem)
    if not problems:
        raise ValueError(f"{source}: no problems in it")
    return problems


def _refuse_half_a_question(row: Mapping[str, Any]) -> None:
    for name in sets_with_fields_of(row):
        if SETS[name].context:
            raise ValueError(
                f"these are the fields of rftt.problems.sets.{name}, whose questions have a part in "
                f"{SETS[name].context!r}: pass it as fields, or Fields of your own"
            )
