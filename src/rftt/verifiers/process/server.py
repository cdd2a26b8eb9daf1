"""A process reward model behind a server, such as vLLM's."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import requests
from transformers import PreTrainedTokenizerBase

from rftt.aggregation import Aggregation, minimum
from rftt.interfaces import Verifier
from rftt.verifiers.model_verdicts import Unscored
from rftt.verifiers.process.formats import ProcessFormat, ScoredIds
from rftt.verifiers.process.verifier import ProcessVerifier, StepText, step_body

_LOG: Final = logging.getLogger(__name__)

_TEMPORARY: Final = (408, 429)
"""Errors of the client's kind that may pass: too slow, too many."""

_ROUNDING: Final = 0.02
"""How far a row's probabilities may be from adding up to 1: servers may compute in half precision."""


class ProcessRewardServer(ProcessVerifier):
    """Scores the steps of states by a process reward model behind vLLM's pooling endpoint.

    A search goes on whatever the server does: a state that it gives no scores for in time, or anything
    but one probability a step, is abstained from. The verdict's reason holds the server's words;
    abstentions are counted in ``abstained`` and logged.

    A request that fails is tried again, with a line in the log: refused, dropped, too slow, an error of
    the server, or a reply that is not JSON. An error that says that the request itself is at fault (400
    to 499, but not 408 and 429), and scores that are wrong, are final.

    The ids of a solution are sent, not its text. The reply has a row for each step (vLLM's pooling type
    ``STEP``, its default for Qwen2.5-Math-PRM) or for each id (``ALL``), and a row has a probability
    for each label (``use_activation``)::

        vllm serve Qwen/Qwen2.5-Math-PRM-7B --runner pooling
        {"data": [{"data": [[0.02, 0.98], [0.7, 0.3]]}]}

    Args:
        url: the endpoint, such as ``http://localhost:8000/pooling``.
        model: the name that the server knows the model by.
        tokenizer: the model's.
        format: how the model is shown a solution.
        aggregation, answers, step_text: as in
            :class:`~rftt.verifiers.process.model.ProcessRewardModel`.
        max_tokens: most ids of a state; a longer one is abstained from without asking. Default no limit
            but the server's.
        label: which number of a row is the probability that the step is good.
        key: sent as a bearer token.
        concurrency: most requests in flight in one call.
        timeout: seconds that a server may be silent in one try.
        retries: tries after the first.
        pause: seconds before the second try; twice as long before each later one, up to a minute, and
            anything from half of that to the full time.
        limit: most seconds of one call of ``judge``, for all its states.

    Raises:
        ValueError: if a setting is out of range, or the tokenizer is not one for the format.
    """

    def __init__(
        self,
        url: str,
        model: str,
        tokenizer: PreTrainedTokenizerBase,
        format: ProcessFormat,
        *,
        aggregation: Aggregation = minimum,
        answers: Verifier | None = None,
        step_text: StepText = step_body,
        max_tokens: int | None = None,
        label: int = 1,
        key: str | None = None,
        concurrency: int = 32,
        timeout: float = 60.0,
        retries: int = 4,
        pause: float = 0.5,
        limit: float = 600.0,
    ) -> None:
        super().__init__(
            tokenizer, format, aggregation=aggregation, answers=answers, step_text=step_text,
            max_tokens=max_tokens,
        )  # fmt: skip
        if concurrency < 1 or retries < 0 or label < 0:
            raise ValueError(
                "concurrency must be 1 or more, retries and label 0 or more, "
                f"not {concurrency}, {retries} and {label}"
            )
        if timeout <= 0 or limit <= 0:
            raise ValueError(f"timeout and limit must be more than 0 s, not {timeout} and {limit}")
        self.url = url
        self.model = model
        self.label = label
        self.key = key
        self.concurrency = concurrency
        self.timeout = timeout
        self.retries = retries
        self.pause = pause
        self.limit = limit

    def __fingerprint__(self) -> Mapping[str, Any]:
        server = {"url": self.url, "model": self.model, "label": self.label}
        return server | dict(super().__fingerprint__())

    def step_scores(self, solutions: Sequence[ScoredIds]) -> list[Sequence[float] | Unscored]:
        end = time.monotonic() + self.limit
        late = Unscored(f"{self.url} gave no scores within {self.limit:g} s")
        result: list[Sequence[float] | Unscored] = [late] * len(solutions)
        call = _Call(self, solutions, end)
        # Each thread has a session of its own and ends with the call: threads, forks and copies of this
        # verifier share nothing. They are daemons so that a server that stalls cannot hold up an exit.
        for _ in range(min(self.concurrency, len(solutions))):
            threading.Thread(target=call.work, daemon=True).start()
        try:
            for _ in solutions:
                number, scores = call.done.get(timeout=max(0.0, end - time.monotonic()))
                if isinstance(scores, Exception):
                    raise scores
                result[number] = scores
        except queue.Empty:
            pass
        finally:
            call.over.set()
        return result


class _Call:
    """The requests of one call, taken by threads one after the other."""

    def __init__(self, server: ProcessRewardServer, solutions: Sequence[ScoredIds], end: float) -> None:
        self.server, self.end = server, end
        self.todo: queue.SimpleQueue[tuple[int, ScoredIds]] = queue.SimpleQueue()
        for pair in enumerate(solutions):
            self.todo.put(pair)
        self.done: queue.SimpleQueue[tuple[int, Sequence[float] | Unscored | Exception]] = (
            queue.SimpleQueue()
        )
        self.over = threading.Event()
        self.rng = random.Random()

    def work(self) -> None:
        with requests.Session() as session:
            if self.server.key is not None:
                session.headers["Authorization"] = f"Bearer {self.server.key}"
            while not self.over.is_set():
                try:
                    number, solution = self.todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    self.done.put((number, self._ask(session, solution)))
                except Exception as error:
                    self.done.put((number, error))

    def _ask(self, session: requests.Session, solution: ScoredIds) -> Sequence[float] | Unscored:
        server = self.server
        tries = server.retries + 1
        for tried in range(1, tries + 1):
            left = self.end - time.monotonic()
            if left <= 0 or self.over.is_set():
                break
            try:
                return self._try(session, solution, min(server.timeout, left))
            except (requests.RequestException, RecursionError) as error:
                failure = error
            if tried < tries and not self.over.is_set():
                seconds = min(60.0, server.pause * 2 ** (tried - 1)) * self.rng.uniform(0.5, 1.0)
                _LOG.warning(
                    "%s: try %d of %d failed with %r; next in %.1f s",
                    server.url, tried, tries, failure, seconds,
                )  # fmt: skip
                self.over.wait(min(seconds, max(0.0, self.end - time.monotonic())))
        else:
            return Unscored(f"{server.url} failed {tries} times, at last with {failure!r}")
        return Unscored(f"{server.url} gave no scores within {server.limit:g} s")

    def _try(
        self, session: requests.Session, solution: ScoredIds, timeout: float
    ) -> Sequence[float] | Unscored:
        body: Any = {
            "model": self.server.model,
            "input": list(solution.ids),
            "task": "token_classify",
            "use_activation": True,
        }
        # A redirected POST becomes a GET, whose reply has no scores.
        reply = session.post(self.server.url, json=body, timeout=timeout, allow_redirects=False)
        if 300 <= reply.status_code < 500 and reply.status_code not in _TEMPORARY:
            words = reply.text.strip()[:300]
            return Unscored(f"{self.server.url} answered with error {reply.status_code}: {words}")
        reply.raise_for_status()
        try:
            return _step_scores(reply.json(), solution, self.server.label)
        except requests.JSONDecodeError:
            raise
        except (ValueError, KeyError, TypeError, IndexError) as error:
            return Unscored(f"{self.server.url} gave no step scores: {error!r}")


def _step_scores(reply: Any, solution: ScoredIds, label: int) -> list[float]:
    """Return the scores of a reply of vLLM's pooling endpoint.

    Raises:
        ValueError, KeyError, TypeError, IndexError: if it holds anything else.
    """
    (only,) = reply["data"]
    rows = only["data"]
    if len(rows) == len(solution.ids):
        rows = [rows[place] for place in solution.places]
    if len(rows) != len(solution.places):
        raise ValueError(f"{len(rows)} scores for {len(solution.places)} steps")
    return [_probability(row, label) for row in rows]


def _probability(row: Any, label: int) -> float:
    numbers = row if isinstance(row, list) else [row]
    if not all(type(number) in (int, float) and 0 <= number <= 1 for number in numbers):
        raise ValueError(f"{row!r:.80} is no probability")
    if len(numbers) == 1:
        return float(numbers[0])
    if abs(sum(numbers) - 1) > _ROUNDING:
        raise ValueError(f"the probabilities {row!r:.80} do not add up to 1")
    return float(numbers[label])
