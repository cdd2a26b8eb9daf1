"""A progress bar over the completions of a search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def progress(total: int, label: str = "search") -> Iterator[Callable[[int], None]]:
    """Show a bar that moves with every completion that arrives, within a round too.

    It yields the hook that searches call::

        with progress(len(problems) * 16, "warm-up") as on_completions:
            run_search(problems, ..., on_completions=on_completions)

    Args:
        total: completions of all trees together; searches that end sooner leave the bar short.
        label: the text before the bar.
    """
    with tqdm(total=total, desc=label, unit="completion") as bar:

        def on_completions(count: int) -> None:
            bar.update(count)

        yield on_completions
