"""Each strategy grows the trees that it has always grown."""

from __future__ import annotations

import pytest

from tests.search.golden import STRATEGIES, columns, recorded, search

RECORD = recorded()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", STRATEGIES)
def test_trees_are_as_recorded(name: str, streaming: bool) -> None:
    for table in range(3):
        for seed in (0, 1):
            for tree in search(STRATEGIES[name], table, seed, streaming=streaming):
                key = f"{name}/table {table}/seed {seed}/{tree.problem.id}"
                assert columns(tree) == RECORD[key], key
