"""A row of a file or a data set, and which reader a file needs."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final, Literal, cast

from attrs import frozen

Format = Literal["jsonl", "json", "csv", "parquet"]
"""JSON lines, one JSON array of objects, comma-separated values with a header, or Parquet."""

_SUFFIXES: Final[dict[str, Format]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}
_BOM: Final = b"\xef\xbb\xbf"


@frozen
class Row:
    """One record, and where it stands.

    Attributes:
        where: names the place in messages: ``a/b.jsonl, line 3``.
        number: the line, from 1; in formats that are not made of lines the row, from 0.
        values: the record's fields by name.
    """

    where: str
    number: int
    values: Mapping[str, Any]


def format_of(path: Path) -> Format:
    """Return the format that a file's suffix names; ``.gz`` behind it does not count.

    Raises:
        ValueError: if the suffix names none.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    found = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    if found is None:
        raise ValueError(
            f"{path}: the name does not say what the file holds; name it {', '.join(_SUFFIXES)}, each "
            'with or without .gz, or pass format="jsonl", "json", "csv" or "parquet"'
        )
    return found


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading bytes, through gzip where its name ends with ``.gz``.

    Raises:
        ValueError: for a folder.
        FileNotFoundError: if there is no such file.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; a folder of data files is read by load_dataset_problems")
    # gzip.open says that it may return text; in this mode it does not.
    return cast(IO[bytes], gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def read_bytes(path: Path) -> bytes:
    """Return a whole file's bytes, unzipped.

    Raises:
        ValueError: as :func:`open_bytes`, and if the file is not gzip to its end.
    """
    with open_bytes(path) as file:
        try:
            return file.read()
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: not gzip to its end: {error}") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield a UTF-8 file's lines with their numbers, from 1; a byte-order mark is left out.

    Raises:
        ValueError: as :func:`open_bytes`, and naming the line, if it is not UTF-8 or not gzip.
    """
    number = 0
    with open_bytes(path) as file:
        try:
            for number, line in enumerate(file, start=1):
                yield number, decode(line, number, path)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}, after line {number}: not gzip to its end: {error}") from error


def decode(data: bytes, first_line: int, path: Path) -> str:
    """Return bytes as text, without a byte-order mark where they are a file's start.

    Raises:
        ValueError: naming the line, if they are not UTF-8.
    """
    if first_line == 1:
        data = data.removeprefix(_BOM)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        byte = error.start - data.rfind(b"\n", 0, error.start)
        raise ValueError(
            f"{path}, line {line}: not UTF-8: byte 0x{data[error.start]:02x}, the {byte}. of the line; "
            "save the file as UTF-8"
        ) from error
