"""Rows of CSV files. Every value is text."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from rftt.problems.readers.rows import Row, read_lines


def read_csv(path: Path) -> Iterator[Row]:
    """Yield the records of a comma-separated file (RFC 4180), each with the line it begins on.

    The first line names the fields. Blank lines are skipped.

    Raises:
        ValueError: naming the line, for a header with a name missing or twice, for a record with more
            or fewer values than the header has names, and for a quote that is never closed.
    """
    records = csv.reader((line for _, line in read_lines(path)), strict=True)
    names: list[str] | None = None
    while True:
        where = f"{path}, line {records.line_num + 1}"
        line = records.line_num + 1
        try:
            values = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{where}: not CSV: {error}") from error
        if not values:
            continue
        if names is None:
            names = values
            if "" in names or len(set(names)) < len(names):
                raise ValueError(f"{where}: the header needs a name of its own for each field: {names}")
        elif len(values) != len(names):
            raise ValueError(f"{where}: {len(values)} values for {len(names)} fields: {names}")
        else:
            yield Row(where, line, dict(zip(names, values, strict=True)))
