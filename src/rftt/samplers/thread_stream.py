"""A stream of sample requests, each in a thread that waits for a server."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event

from rftt.samplers.sampler import Sample, SampleRequest, SampleStream


class ThreadStream(SampleStream):
    """Requests in flight.

    Args:
        complete: answers one request; what it raises ends the stream. It is also given an event that is
            set when the stream ends so, after which no one waits for it.
        concurrency: most requests in flight.
    """

    def __init__(self, complete: Callable[[SampleRequest, Event], Sample], concurrency: int) -> None:
        self._complete = complete
        self._threads = ThreadPoolExecutor(concurrency)
        self._keys: dict[Future[Sample], int] = {}
        self._ended = Event()

    def add(self, key: int, request: SampleRequest) -> None:
        self._keys[self._threads.submit(self._complete, request, self._ended)] = key

    def collect(self) -> list[tuple[int, Sample]]:
        if not self._keys:
            return []
        try:
            done, _ = wait(self._keys, return_when=FIRST_COMPLETED)
            return [(self._keys.pop(future), future.result()) for future in done]
        except BaseException:
            self._ended.set()
            self._threads.shutdown(wait=False, cancel_futures=True)
            raise
