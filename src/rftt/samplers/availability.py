"""Whether a server is there: what tells one that is away from one that fails."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

import requests
from urllib3.exceptions import NewConnectionError

_LOG: Final = logging.getLogger(__name__)

UNREADY: Final = (502, 503, 504)
"""What a gateway says for a server that is gone, and llama.cpp's while it loads its model."""


class Availability:
    """Whether a server is there, as the threads that ask it find.

    A server is away if it has given a sample before and takes no connection now, as one that was killed
    and is started again; until its next sample it stays away, whatever a gateway says for it. One that
    has never given a sample is not away: its address may be wrong. The log says once that the server is
    away, and once that it is back.

    Args:
        url: the server's, for the log.
        wait: seconds that each request waits for it; 0 if a server is never away.
    """

    def __init__(self, url: str, wait: float) -> None:
        self.url = url
        self.wait = wait
        self._lock = threading.Lock()
        self._seen = False
        self._since: float | None = None
        self._tries = 0

    def note_sample(self, asked: float) -> None:
        """Note a sample.

        Args:
            asked: when it was asked for, by ``time.monotonic``. What was asked before the server went
                says nothing.
        """
        with self._lock:
            self._seen = True
            if self._since is None or asked < self._since:
                return
            _LOG.warning(
                "%s is back: it was away for %.0f s and %d tries",
                self.url, time.monotonic() - self._since, self._tries,
            )  # fmt: skip
            self._since = None

    def is_away(self, failure: Exception, *, last: bool) -> bool:
        """Note a failed try, and return whether it failed because the server is away.

        Args:
            failure: what was raised.
            last: whether the request has no other tries left. A server behind a gateway is away only
                then: the gateway says the same of one that is busy.
        """
        with self._lock:
            if not self._seen or not self.wait:
                return False
            gone = _takes_no_connection(failure)
            if not gone and not (_is_unready(failure) and (last or self._since is not None)):
                return False
            if self._since is None:
                self._since, self._tries = time.monotonic(), 0
                _LOG.warning(
                    "%s is away: %r; each request waits up to %g s for it", self.url, failure, self.wait
                )
            self._tries += 1
            return True


def _takes_no_connection(failure: Exception) -> bool:
    """Return whether a connection was refused, or not made in time: one that was made and broke is an
    answer that was lost."""
    reason = getattr(failure.args[0] if failure.args else None, "reason", None)
    return isinstance(failure, requests.ConnectTimeout) or isinstance(reason, NewConnectionError)


def _is_unready(failure: Exception) -> bool:
    reply = getattr(failure, "response", None)
    return reply is not None and reply.status_code in UNREADY
