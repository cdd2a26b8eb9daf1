"""A file is written completely or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from rftt.files import atomic_write


def test_a_file_is_there_once_all_of_it_is(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path) as partial:
            partial.write_text("half of the n")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"


def test_a_folder_that_was_left_half_done_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "model"
    (tmp_path / "model.partial").mkdir()
    (tmp_path / "model.partial" / "stale").write_text("")
    with atomic_write(path) as partial:
        partial.mkdir()
        (partial / "weights").write_text("w")
    assert [file.name for file in path.iterdir()] == ["weights"]


def test_a_folder_that_holds_files_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for text in ("old", "new"):
        with atomic_write(path) as partial:
            partial.mkdir()
            (partial / text).write_text(text)
    assert [file.name for file in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_left_half_done_makes_room_for_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "model"
    (tmp_path / "model.partial").write_text("half")
    with atomic_write(path) as partial:
        partial.mkdir()
    assert path.is_dir()
