"""Sampling from an OpenAI-compatible server: vLLM's, llama.cpp's and others."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final

import requests
from attrs import evolve
from transformers import PreTrainedTokenizerBase

from rftt.samplers.completions import (
    Reply,
    completion_body,
    read_max_length,
    read_reply,
    says_too_long,
)
from rftt.samplers.sampler import Sample, Sampler, SampleRequest, SampleStream
from rftt.samplers.sampling import SamplingParams
from rftt.samplers.stops import Stops
from rftt.samplers.thread_stream import ThreadStream
from rftt.tokens.automaton import TokenAutomaton

_LOG: Final = logging.getLogger(__name__)

_SEEDS: Final = 1 << 31
"""Servers take seeds of 32 bits at least."""

_TEMPORARY: Final = (408, 429)
"""Errors of the client's kind that may pass: too slow, too many."""


class ServerSampler(Sampler):
    """Completions over HTTP, for prompted policies: a server has stops, but no grammar.

    A request that fails is tried again, with a line in the log: refused, dropped, too slow, an error of
    the server, or a reply that is not what it should be. An error that says that the request itself is
    at fault (400 to 499, but not 408 and 429) is final, but for one that is too long for the model's
    context: its sample is empty, which ends that request alone. A search goes on from whatever was
    answered; one with a ``directory`` even survives a server that stays away.

    Token ids that a server gives back (vLLM does, llama.cpp's too) are taken as they are. For other
    servers the text is encoded again, which may split it otherwise than it was sampled. A sample ends
    before an id that no text may hold, such as one that opens a turn.

    All settings of sampling are sent, so that a server's own defaults do not count. Log-probabilities
    are those that the server reports, NaN where it reports none. At another temperature than 1, or with
    truncation, most servers report those of the model and not those of the distribution drawn from; they
    are then NaN, too, with a warning, unless the server says otherwise (llama.cpp does) or
    ``processed_log_probs`` is given. Greedy ones are 0.

    Where no sample may be blank, one that is has its first id drawn again with ``logit_bias`` against
    white space that ends it.

    Streams have no memory in common, so a newer one does not end an older one. Chat models are asked
    with the ids of their template: chat-completions endpoints take none.

    Args:
        url: up to and including the version: ``http://localhost:8000/v1``.
        model: the name that the server knows the model by.
        tokenizer: the model's.
        temperature, top_p, min_p: as in :class:`~rftt.samplers.sampling.SamplingParams`.
        max_length: the length of the model's context; default what the server says in ``/models``, as
            vLLM and llama.cpp do.
        processed_log_probs: whether the server reports log-probabilities of the distribution drawn
            from, as vLLM does if it runs with ``--logprobs-mode processed_logprobs``.
        fields: what is sent beside or in place of the usual fields; ``None`` leaves one out, for a
            server that refuses what it does not know.
        key: sent as a bearer token.
        concurrency: most requests in flight.
        timeout: seconds that one try may take.
        retries: tries after the first.
        pause: seconds before the second try; twice as long before each later one, up to a minute, and
            anything from half of that to the full time.
    """

    def __init__(
        self,
        url: str,
        model: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        max_length: int | None = None,
        processed_log_probs: bool = False,
        fields: Mapping[str, Any] | None = None,
        key: str | None = None,
        concurrency: int = 32,
        timeout: float = 120.0,
        retries: int = 8,
        pause: float = 0.5,
    ) -> None:
        if concurrency < 1 or retries < 0:
            wrong = f"{concurrency} and {retries}"
            raise ValueError(f"concurrency must be 1 or more and retries 0 or more, not {wrong}")
        self.url = url.rstrip("/")
        self.model = model
        self.tokenizer = tokenizer
        self.sampling_params = SamplingParams(temperature, top_p, min_p)
        self.processed_log_probs = processed_log_probs
        self.fields = dict(fields or {})
        self.concurrency = concurrency
        self.timeout = timeout
        self.retries = retries
        self.pause = pause
        self.tokenizer_size = self.vocab_size = len(tokenizer)
        self.retried = 0
        self._lock = threading.Lock()
        self._max_length = max_length
        self._asked_length = max_length is not None
        self._warned = False
        self._session = requests.Session()
        self._session.mount(
            self.url, requests.adapters.HTTPAdapter(pool_maxsize=concurrency, pool_block=True)
        )
        if key is not None:
            self._session.headers["Authorization"] = f"Bearer {key}"

    def __fingerprint__(self) -> Mapping[str, Any]:
        found = {"url": self.url, "model": self.model, "sampling_params": self.sampling_params}
        return found | ({"fields": self.fields} if self.fields else {})

    @property
    def max_length(self) -> int | None:  # type: ignore[override]
        """Return the length of the model's context, as given or as the server says, if it does."""
        if not self._asked_length:
            try:
                reply = self._session.get(f"{self.url}/models", timeout=min(self.timeout, 10.0))
                self._max_length = read_max_length(reply.json(), self.model) if reply.ok else None
            except requests.ConnectionError:
                return None  # ask again
            except (requests.RequestException, ValueError):
                _LOG.info("%s does not say how long the context of its model is", self.url)
            self._asked_length = True
        return self._max_length

    def stream(self, automaton: TokenAutomaton) -> SampleStream:
        stops = Stops.of(automaton, self.tokenizer)
        return ThreadStream(partial(self.complete, stops=stops), self.concurrency)

    def next_log_probs(
        self, prompts: Sequence[tuple[int, ...]], states: Sequence[int], automaton: TokenAutomaton
    ) -> list[dict[int, float]]:
        """Raise ``NotImplementedError``: a server does not report full distributions."""
        raise NotImplementedError("a server does not give full distributions: use a prompted policy")

    def complete(self, request: SampleRequest, stops: Stops) -> Sample:
        """Sample until a stop.

        Raises:
            ConnectionError: naming the server and its last failure, once all tries are spent.
            RuntimeError: with the server's own words, if it finds the request at fault.
        """
        try:
            sample = self._ask(request, stops)
            if not stops.is_blank(sample, request.state):
                return sample
            bias = {"logit_bias": _banned(stops.control | stops.blank_stops), "stop": None}
            first = self._ask(evolve(request, max_tokens=1), stops, bias)
            if request.max_tokens == 1 or stops.is_blank(first, request.state):
                return first
            prompt, left = request.prompt + first.ids, request.max_tokens - 1
            rest = self._ask(evolve(request, prompt=prompt, max_tokens=left), stops)
            return Sample(first.ids + rest.ids, first.log_probs + rest.log_probs)
        except _TooLongError:
            return Sample((), ())

    def _ask(
        self, request: SampleRequest, stops: Stops, fields: Mapping[str, Any] | None = None
    ) -> Sample:
        """Ask for one sample, several times if need be."""
        seed = request.seed % _SEEDS
        params = self.sampling_params
        body = completion_body(self.model, request.prompt, request.max_tokens, seed, params)
        body |= {"stop": [stops.text], "logit_bias": _banned(stops.control)}
        body |= {**(fields or {}), **self.fields}
        body = {name: value for name, value in body.items() if value is not None}
        tries = self.retries + 1
        for tried in range(1, tries + 1):
            try:
                return self._sample(read_reply(self.post(body)), request.max_tokens, stops)
            except (requests.RequestException, ValueError, KeyError, TypeError) as error:
                failure = error
            if tried < tries:
                seconds = min(60.0, self.pause * 2 ** (tried - 1)) * random.uniform(0.5, 1.0)
                with self._lock:
                    self.retried += 1
                _LOG.warning(
                    "%s: try %d of %d failed with %r; next in %.1f s",
                    self.url, tried, tries, failure, seconds,
                )  # fmt: skip
                time.sleep(seconds)
        raise ConnectionError(
            f"{self.url} failed {tries} times, at last with {failure!r}; a search with a directory can "
            "be started again and goes on from its last round"
        ) from failure

    def post(self, body: Mapping[str, Any]) -> Any:
        """Post a completions request once and return the reply.

        Raises:
            requests.RequestException: if the server says nothing or an error, or no JSON.
            RuntimeError: with the server's own words, if it finds the request at fault.
        """
        reply = self._session.post(f"{self.url}/completions", json=body, timeout=self.timeout)
        if not reply.ok:
            words = reply.text.strip()[:500]
            if says_too_long(reply.status_code, words):
                raise _TooLongError(words)
            if reply.status_code < 500 and reply.status_code not in _TEMPORARY:
                error = f"error {reply.status_code}: {words}"
                raise RuntimeError(f"{self.url} refused a request with {error}")
        reply.raise_for_status()
        return reply.json()

    def _sample(self, reply: Reply, max_tokens: int, stops: Stops) -> Sample:
        ids = reply.ids
        if ids is None:
            ids = tuple(self.tokenizer.encode(reply.text, add_special_tokens=False))
        return stops.cut(ids, self._log_probs(reply), stopped=reply.stopped, max_tokens=max_tokens)

    def _log_probs(self, reply: Reply) -> list[float]:
        """Return log-probabilities under the distribution drawn from; NaN where they are others."""
        params = self.sampling_params
        if params.temperature == 0:
            return [0.0] * len(reply.log_probs)
        is_plain = params.has_full_support and params.temperature == 1
        if is_plain or reply.processed or self.processed_log_probs:
            return list(reply.log_probs)
        if not self._warned:
            self._warned = True
            _LOG.warning(
                "%s reports log-probabilities of the model, not of the distribution drawn from with "
                "temperature %g, top_p %g and min_p %g; they are NaN in the steps. Run vLLM with "
                "--logprobs-mode processed_logprobs and pass processed_log_probs=True, or sample at "
                "temperature 1", self.url, params.temperature, params.top_p, params.min_p,
            )  # fmt: skip
        return [math.nan] * len(reply.log_probs)


class _TooLongError(Exception):
    """A request that is longer than the model's context."""


def _banned(ids: Collection[int]) -> dict[str, int]:
    """Return a bias by which no server samples some ids."""
    return {str(i): -100 for i in sorted(ids)}
