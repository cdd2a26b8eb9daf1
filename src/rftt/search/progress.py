"""A progress bar over the rollouts of a search, with their rate and the time left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm

from rftt.search.engine import OnRound
from rftt.search.tree import SearchTree


@contextmanager
def progress(rollouts: int, label: str = "search") -> Iterator[OnRound]:
    """A bar, as a hook for the engine; it is closed at the end of the ``with`` block::

        with progress(len(problems) * 16, "warm-up") as on_round:
            run_search(problems, ..., budget=Budget(rollouts=16), on_round=on_round)

    Args:
        rollouts: of all trees together; searches that end sooner leave the bar short.
        label: what stands before the bar.
    """
    with tqdm(total=rollouts, desc=label, unit="rollout") as bar:

        def on_round(trees: Sequence[SearchTree], finished: int) -> None:
            bar.set_postfix(trees=f"{finished}/{len(trees)}", refresh=False)
            bar.update(sum(tree.samples for tree in trees) - bar.n)

        yield on_round
