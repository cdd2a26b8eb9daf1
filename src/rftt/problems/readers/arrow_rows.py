"""Rows of Parquet files and of Arrow tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rftt.problems.readers.rows import Row, read_bytes


def read_parquet(path: Path) -> Iterator[Row]:
    """Yield the rows of a Parquet file.

    Raises:
        ValueError: if it is not one, or cannot be read to its end.
    """
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(pyarrow.BufferReader(read_bytes(path))) as file:
            for number, values in enumerate(table_rows(file.iter_batches(batch_size=1024))):
                yield Row(f"{path}, row {number}", number, values)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}, after row {number}: not Parquet: {error}") from error


def table_rows(tables: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of ``pyarrow`` tables or record batches as Python values.

    A number of 32 bits or fewer becomes the shortest one that it may stand for: 3.3, not 3.29999995.
    """
    for table in tables:
        names = table.schema.names
        columns = [
            [_shortest(value, field.type) for value in column.to_pylist()]
            if _has_short_floats(field.type)
            else column.to_pylist()
            for field, column in zip(table.schema, table.columns, strict=True)
        ]
        for values in zip(*columns, strict=True):
            yield dict(zip(names, values, strict=True))


def _has_short_floats(type: Any) -> bool:
    import pyarrow

    if pyarrow.types.is_nested(type):
        return any(_has_short_floats(type.field(i).type) for i in range(type.num_fields))
    return bool(pyarrow.types.is_float16(type) or pyarrow.types.is_float32(type))


def _shortest(value: Any, type: Any) -> Any:
    import numpy as np
    import pyarrow

    if value is None:
        return None
    if pyarrow.types.is_struct(type):
        return {name: _shortest(part, type.field(name).type) for name, part in value.items()}
    if isinstance(value, list):
        return [_shortest(item, type.value_type) for item in value]
    if isinstance(value, float):
        return float(str((np.float16 if pyarrow.types.is_float16(type) else np.float32)(value)))
    return value
