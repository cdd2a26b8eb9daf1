"""A progress bar over the completions of a search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Final

from tqdm import tqdm

_REFRESH_SECONDS: Final = 5.0


@contextmanager
def progress(total: int, label: str = "search") -> Iterator[Callable[[int], None]]:
    """Show a bar that moves with every completion that arrives, within a round too, and whose rate and
    time left go on to change while none does.

    It yields the hook that searches call::

        with progress(len(problems) * 16, "warm-up") as on_completions:
            run_search(problems, ..., on_completions=on_completions)

    Args:
        total: completions of all trees together; searches that end sooner leave the bar short.
        label: the text before the bar.
    """
    ended = Event()
    # The mean rate so far: it and the time left go on to change while no completion arrives.
    with tqdm(total=total, desc=label, unit="completion", smoothing=0) as bar:

        def on_completions(count: int) -> None:
            bar.update(count)

        def refresh() -> None:
            while not ended.wait(_REFRESH_SECONDS):
                bar.refresh()

        clock = Thread(target=refresh, daemon=True)
        clock.start()
        try:
            yield on_completions
        finally:
            ended.set()
            clock.join()
