"""Rows for contexts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rftt.policies.seating import even_rows, stay


@given(st.data())
def test_even_rows_are_no_worse_than_the_first_that_are_free(data: st.DataObject) -> None:
    count = data.draw(st.integers(3, 40))
    many = data.draw(st.integers(3, count))
    used = data.draw(st.sets(st.integers(0, count + 5)))
    free = [row for row in range(count) if row not in used]
    while len(free) < many:
        used.discard(freed := min(used))
        free = sorted({*free, freed} & {*range(count)})
    wanted = data.draw(st.sets(st.sampled_from(free)))
    rows = even_rows(many, used, {*wanted, None}, count)
    assert len(rows) == many
    assert 0 <= rows[0] <= rows[-1] < count

    def gain(of: range) -> int:
        return len(wanted.intersection(of)) - len(used.intersection(of))

    assert gain(rows) >= gain(range(free[0], free[0] + many))


def test_even_rows_need_not_be_neighbours() -> None:
    assert even_rows(3, {0, 2, 3, 5, 6, 8, 9}, set(), 10) == range(1, 8, 3)


@given(st.data())
def test_contexts_stay_where_they_can(data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, 20), unique=True))
    contexts = data.draw(st.lists(st.none() | st.integers(0, 25), max_size=len(rows)))
    given_rows = stay(contexts, rows)
    assert len(given_rows) == len(set(given_rows)) == len(contexts)
    assert {*given_rows} <= {*rows}
    stayed = {row for row, context in zip(given_rows, contexts, strict=True) if row == context}
    assert stayed == {*contexts} & {*rows}
