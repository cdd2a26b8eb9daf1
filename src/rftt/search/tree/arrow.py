"""Trees as an Arrow table, one row a node: for pandas, Polars, DuckDB, ``datasets`` and Parquet.

This is for reading. To save trees and search on, use :mod:`rftt.search.tree.storage`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import pyarrow as pa

from rftt.search.tree.tree import SearchTree

SCHEMA: Final = pa.schema(
    [
        ("tree", pa.int32()),
        ("problem_id", pa.string()),
        ("node", pa.int32()),
        ("parent", pa.int32()),
        ("depth", pa.int32()),
        ("function", pa.string()),
        ("text", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("log_probs", pa.list_(pa.float64())),
        ("action_mask", pa.list_(pa.bool_())),
        ("body_start", pa.int32()),
        ("visits", pa.int64()),
        ("ended", pa.int64()),
        ("value_count", pa.int64()),
        ("value_sum", pa.float64()),
        ("value", pa.float64()),
        ("answer", pa.string()),
        ("score", pa.float64()),
        ("terminal", pa.bool_()),
        ("truncated", pa.bool_()),
        ("exhausted", pa.bool_()),
    ]
)
"""The columns of :func:`trees_to_arrow`, in order."""


def trees_to_arrow(trees: Iterable[SearchTree]) -> pa.Table:
    """Return all nodes of all trees as a table, the nodes of a tree together and in order.

    ``tree`` and ``node`` together name a row. Its columns are

    * ``tree``: the tree's place in ``trees``, from 0; ``problem_id``: its problem's id, which trees may
      share;
    * ``node``: the node's number in its tree, 0 at the question; ``parent``: its parent's, -1 at the
      question; ``depth``: steps from the question;
    * ``function``: the step's function, null at the question; ``text``: the step's text, the question
      itself at the question;
    * ``ids``, ``log_probs``, ``action_mask``: the step's token ids; for each, its natural
      log-probability under the distribution it was drawn from, and whether the policy drew it itself;
      empty at the question; ``body_start``: how many ids stand before the step's body;
    * ``visits``: rollouts that passed or ended here; ``ended``: those that ended here; ``value_count``
      and ``value_sum``: number and sum of the scores of those that passed or ended here; ``value``:
      their mean, null if none was scored;
    * ``answer`` and ``score``: what the verifier said of the solution that ends here, null where it
      abstained or was not asked;
    * ``terminal``: whether the solution ends with this step; ``truncated``: whether a limit ended it;
      ``exhausted``: whether the search has nothing left to do below.

    Raises ``pyarrow.ArrowInvalid`` if an id does not fit into 32 bits.
    """
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for number, tree in enumerate(trees):
        for node in range(len(tree)):
            for name, cell in _row(number, tree, node).items():
                columns[name].append(cell)
    return pa.Table.from_pydict(columns, schema=SCHEMA)


def _row(number: int, tree: SearchTree, node: int) -> dict[str, Any]:
    step, verdict = tree.step[node], tree.verdict[node]
    return {
        "tree": number,
        "problem_id": tree.problem.id,
        "node": node,
        "parent": tree.parent[node],
        "depth": tree.depth[node],
        "function": step.function if step else None,
        "text": tree.text(node),
        "ids": step.ids if step else (),
        "log_probs": step.log_probs if step else (),
        "action_mask": step.action_mask if step else (),
        "body_start": step.body_start if step else 0,
        "visits": tree.visits[node],
        "ended": tree.ended[node],
        "value_count": tree.value_count[node],
        "value_sum": tree.value_sum[node],
        "value": tree.value(node),
        "answer": verdict.answer if verdict else None,
        "score": verdict.score if verdict else None,
        "terminal": step.terminal if step else False,
        "truncated": step.truncated if step else False,
        "exhausted": tree.exhausted[node],
    }
