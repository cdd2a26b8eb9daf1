"""An Arrow table of trees says what the trees say."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from hypothesis import given

from rftt import SearchTree, Step, Verdict
from rftt.search.tree.arrow import SCHEMA, trees_to_arrow
from rftt.testing.finite.tabular import TabularPolicy
from tests.search.trees import searches

Searched = tuple[TabularPolicy, list[SearchTree]]


def _step_of(row: dict[str, object]) -> Step | None:
    names = (
        "function",
        "text",
        "ids",
        "log_probs",
        "action_mask",
        "terminal",
        "truncated",
        "body_start",
    )
    return None if row["function"] is None else Step(**{name: row[name] for name in names})  # type: ignore[arg-type]


@given(searches(most=3))
def test_the_trees_can_be_read_back_from_the_table(searched: Searched) -> None:
    _, trees = searched
    table = trees_to_arrow(trees)
    assert table.schema == SCHEMA
    assert table.num_rows == sum(map(len, trees))
    rows = iter(table.to_pylist())
    for number, tree in enumerate(trees):
        for node in range(len(tree)):
            row = next(rows)
            assert (row["tree"], row["problem_id"]) == (number, tree.problem.id)
            assert (row["node"], row["text"]) == (node, tree.text(node))
            assert _step_of(row) == tree.step[node]
            for name in ("parent", "depth", "visits", "ended", "value_count", "value_sum", "exhausted"):
                assert row[name] == getattr(tree, name)[node]
            assert row["value"] == tree.value(node)
            verdict = tree.verdict[node] or Verdict(None)
            assert (row["answer"], row["score"]) == (verdict.answer, verdict.score)


@given(searches(most=2))
def test_votes_can_be_counted_in_the_table(searched: Searched) -> None:
    _, trees = searched
    table = trees_to_arrow(trees)
    sums = table.group_by("tree").aggregate([("ended", "sum")]).to_pydict()
    assert sums["ended_sum"] == [tree.visits[0] for tree in trees]


def test_no_trees_are_a_table_without_rows(tmp_path: Path) -> None:
    empty = trees_to_arrow([])
    assert (empty.num_rows, empty.schema) == (0, SCHEMA)
    pq.write_table(empty, tmp_path / "trees.parquet")
    assert pq.read_table(tmp_path / "trees.parquet").equals(empty)


def test_every_column_is_described() -> None:
    described = trees_to_arrow.__doc__ or ""
    assert [name for name in SCHEMA.names if f"``{name}``" not in described] == []
