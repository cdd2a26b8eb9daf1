"""Files that are written completely or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path, of a file or a folder to be, that replaces ``path`` on success.

    Nothing changes at ``path`` if the block raises or the process is killed within it. A folder that is
    replaced stands as ``<name>.old`` for the moment between two renames.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    # Left by a block that raised or a process that was killed.
    _remove(partial)
    yield partial
    if path.is_dir():
        # A folder cannot be replaced in one step while it holds files.
        old = path.with_name(f"{path.name}.old")
        _remove(old)
        path.rename(old)
        partial.rename(path)
        _remove(old)
    else:
        partial.replace(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
