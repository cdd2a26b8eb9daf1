"""A connection to a server: how it is asked, what is tried again, and for how long."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from typing import Any, Final, TypeVar

import requests

from rftt.samplers.availability import Availability
from rftt.samplers.completions import says_too_long

_Result = TypeVar("_Result")

_TEMPORARY: Final = (408, 429)
"""Errors of the client's kind that may pass: too slow, too many."""

_CONNECT: Final = 10.0
"""Seconds in which a server takes a connection, if it is there."""

_PROBE: Final = 10.0
"""Most seconds between two tries of a request at a server that is away."""


class TooLongError(Exception):
    """A request that is longer than the model's context."""


class Connection:
    """Requests to one server, from many threads.

    Args:
        url: up to and including the version.
        log: where each failed try that is followed by another gets a line.
        key: sent as a bearer token.
        concurrency: most requests in flight.
        timeout: seconds that one try may take.
        retries: tries after the first.
        wait: seconds that a request waits for a server that is away.
        pause: seconds before the second try; see :class:`~rftt.samplers.openai.ServerSampler`.

    Attributes:
        retried: tries that failed and were followed by another.

    Raises:
        ValueError: if a setting makes no sense.
    """

    def __init__(
        self,
        url: str,
        log: logging.Logger,
        *,
        key: str | None,
        concurrency: int,
        timeout: float,
        retries: int,
        wait: float,
        pause: float,
    ) -> None:
        if concurrency < 1 or retries < 0:
            wrong = f"{concurrency} and {retries}"
            raise ValueError(f"concurrency must be 1 or more and retries 0 or more, not {wrong}")
        if not wait >= 0:
            raise ValueError(f"wait must be 0 or more seconds, not {wait}")
        self.url = url
        self.timeout = timeout
        self.retries = retries
        self.pause = pause
        self.retried = 0
        self._log = log
        self._lock = threading.Lock()
        self._availability = Availability(url, wait)
        self._session = requests.Session()
        self._session.mount(
            url, requests.adapters.HTTPAdapter(pool_maxsize=concurrency, pool_block=True)
        )
        if key is not None:
            self._session.headers["Authorization"] = f"Bearer {key}"

    def get(self, path: str) -> requests.Response:
        """Get a path once.

        Raises:
            requests.RequestException: if the server says nothing.
        """
        return self._session.get(f"{self.url}/{path}", timeout=min(self.timeout, _CONNECT))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Post a request once and return the reply.

        Raises:
            requests.RequestException: if the server says nothing or an error, or no JSON.
            TooLongError: if it says that the request is longer than the model's context.
            RuntimeError: with the server's own words, if it finds the request at fault.
        """
        patience = (min(self.timeout, _CONNECT), self.timeout)
        reply = self._session.post(f"{self.url}/{path}", json=body, timeout=patience)
        if not reply.ok:
            words = reply.text.strip()[:500]
            if says_too_long(reply.status_code, words):
                raise TooLongError(words)
            if reply.status_code < 500 and reply.status_code not in _TEMPORARY:
                hint = ""
                if reply.status_code == 404 and path == "completions":
                    hint = "; a server that has chat completions alone needs endpoint='chat'"
                error = f"error {reply.status_code}: {words}{hint}"
                raise RuntimeError(f"{self.url} refused a request with {error}")
        reply.raise_for_status()
        return reply.json()

    def persist(self, ask: Callable[[], _Result], ended: threading.Event) -> _Result:
        """Ask until there is an answer, as often and as long as the settings say.

        Args:
            ask: tries once.
            ended: is set when no one waits for the answer any more.

        Raises:
            ConnectionError: naming the server and its last failure, once all tries are spent, or the
                server was away for too long.
            CancelledError: if ``ended`` is set before another try.
        """
        tries, tried, in_vain = self.retries + 1, 0, 0
        away_since: float | None = None
        while True:
            try:
                return ask()
            except (requests.RequestException, ValueError, KeyError, TypeError) as error:
                failure = error
            if self._availability.is_away(failure, last=tried == self.retries):
                away_since = away_since or time.monotonic()
                if (waited := time.monotonic() - away_since) >= self._availability.wait:
                    raise self._given_up(f"has been away for {waited:.0f} s", failure) from failure
                seconds = self._seconds(in_vain, most=_PROBE)
                in_vain += 1
            else:
                away_since, in_vain = None, 0
                tried += 1
                if tried == tries:
                    raise self._given_up(f"failed {tries} times", failure) from failure
                seconds = self._seconds(tried - 1, most=60.0)
                self._log.warning(
                    "%s: try %d of %d failed with %r; next in %.1f s",
                    self.url, tried, tries, failure, seconds,
                )  # fmt: skip
            with self._lock:
                self.retried += 1
            if ended.wait(seconds):
                raise CancelledError

    def note_sample(self, asked: float) -> None:
        """Note that the server gave a sample that was asked for at a time of ``time.monotonic``."""
        self._availability.note_sample(asked)

    def _seconds(self, before: int, *, most: float) -> float:
        return min(most, self.pause * 2.0 ** min(before, 30)) * random.uniform(0.5, 1.0)

    def _given_up(self, what: str, failure: Exception) -> ConnectionError:
        return ConnectionError(
            f"{self.url} {what}, at last with {failure!r}; a search with a directory can be started "
            "again and goes on from its last round"
        )
