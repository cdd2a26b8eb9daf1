"""Hugging Face data sets, from memory, a stream and a folder, without a network."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from rftt import Problem
from rftt.problems.fields import Fields
from rftt.problems.loaders import load_dataset_problems, problems_from_dataset
from rftt.problems.sets import AMC, GSM8K

ROWS: list[dict[str, Any]] = [
    {"question": f"{i}+{i}", "answer": f"So.\n#### {2 * i}", "level": i} for i in range(1, 4)
]
FIELDS = Fields(gold=GSM8K.gold, metadata=["level"])
PROBLEMS = [Problem(f"dataset:{i - 1}", f"{i}+{i}", str(2 * i), {"level": i}) for i in range(1, 4)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def test_a_dataset_a_stream_and_a_list_give_the_same_problems() -> None:
    dataset = datasets.Dataset.from_list(ROWS)
    for rows in (dataset, dataset.to_iterable_dataset(), ROWS, iter(ROWS)):
        assert problems_from_dataset(rows, FIELDS) == PROBLEMS


def test_rows_that_were_selected_or_shuffled_come_as_the_dataset_has_them() -> None:
    dataset = datasets.Dataset.from_list(ROWS).select([2, 0])
    assert [p.question for p in problems_from_dataset(dataset, FIELDS)] == ["3+3", "1+1"]
    # What a dataset is set to return does not matter.
    dataset = dataset.with_format("numpy").select_columns(["question", "answer", "level"])
    assert [p.metadata for p in problems_from_dataset(dataset, FIELDS)] == [{"level": 3}, {"level": 1}]


def test_a_short_float_is_what_it_stands_for() -> None:
    features = datasets.Features(problem=datasets.Value("string"), answer=datasets.Value("float32"))
    dataset = datasets.Dataset.from_list([{"problem": "p", "answer": 3.3}], features=features)
    assert problems_from_dataset(dataset, AMC)[0].answer == "3.3"


def test_splits_and_bad_rows_are_named() -> None:
    dataset = datasets.Dataset.from_list([*ROWS, {"question": "x", "answer": None, "level": 1}])
    with pytest.raises(ValueError, match="asked has splits; choose one of 'train', 'test'"):
        problems_from_dataset(datasets.DatasetDict(train=dataset, test=dataset), source="asked")
    with pytest.raises(ValueError, match="mine, row 3: no gold answer"):
        problems_from_dataset(dataset, FIELDS, source="mine")
    with pytest.raises(ValueError, match="dataset: no problems in it"):
        problems_from_dataset([])
    with pytest.raises(ValueError, match="dataset, row 1: the id '0' is that of dataset, row 0 too"):
        problems_from_dataset([{"id": 0, "question": "q", "answer": 1}] * 2)


@pytest.mark.usefixtures("cache")
def test_a_folder_is_a_data_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "sums"
    folder.mkdir()
    for split, rows in (("train", ROWS[:2]), ("test", ROWS[2:])):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text)
    with caplog.at_level(logging.ERROR):
        train = load_dataset_problems(folder, FIELDS, split="train")
        test = load_dataset_problems(folder, FIELDS, split="test")
    assert [p.question for p in train + test] == ["1+1", "2+2", "3+3"]
    assert [p.id for p in train + test] == ["sums/train:0", "sums/train:1", "sums/test:0"]
    with pytest.raises(ValueError, match=r"sums/test, row 0: .*sets\.GSM8K"):
        load_dataset_problems(folder, split="test")
    with pytest.raises(ValueError, match="valid"):
        load_dataset_problems(folder, FIELDS, split="valid")


@pytest.mark.usefixtures("cache")
def test_a_folder_s_code_is_not_run(tmp_path: Path) -> None:
    folder, trace = tmp_path / "evil", tmp_path / "trace"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    with pytest.raises(Exception, match="evil"):
        load_dataset_problems(folder, split="train")
    assert not trace.exists()
