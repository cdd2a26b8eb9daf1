"""Say why no rollout of a search has an answer."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from rftt.search.tree.tree import SearchTree

_LOG: Final = logging.getLogger(__name__)

_searches: Iterator[int] = itertools.count(1)
"""Numbers the searches of this process that had no answer."""


def warn_unanswered(trees: Sequence[SearchTree]) -> None:
    """Log a warning that says why, if no rollout of a search has an answer or a score above 0.

    A process may run thousands of such searches, so there is a warning for the 1st, the 10th, the 100th
    and so on. A verifier that gives scores without answers, as process reward models do, is not warned
    of.

    Args:
        trees: those of one search.
    """
    total = truncated = unfinished = 0
    silent: Counter[str] = Counter()
    for tree in trees:
        for node in tree.ends():
            number = tree.ended[node]
            total += number
            verdict, step = tree.verdict[node], tree.step[node]
            if verdict is not None and (verdict.score or (verdict.answer and tree.is_finished(node))):
                return
            if step is not None and step.truncated:
                truncated += number
            elif verdict is None or not tree.is_finished(node):
                unfinished += number
            else:
                silent[verdict.reason or "the verifier gives no reason"] += number
    # What nobody would see, such as the contract's made-up searches, does not count.
    if not total or not _LOG.isEnabledFor(logging.WARNING):
        return
    count = next(_searches)
    if str(count).strip("0") != "1":
        return
    reasons = "; ".join(f"{number}: {reason}" for reason, number in silent.most_common(3))
    _LOG.warning(
        "none of %d rollouts of %d problems has an answer: a limit truncated %d, %d did not end, and in "
        "%d the verifier found none%s. Raise max_tokens or max_depth, have the prompts ask for the form "
        "in which the verifier looks for answers, or take a model that was tuned to give it. Searches "
        "without an answer in this process so far: %d; the next warning is at %d",
        total, len(trees), truncated, unfinished, silent.total(), f" ({reasons})" if reasons else "",
        count, 10 * count,
    )  # fmt: skip
