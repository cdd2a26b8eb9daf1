"""Sampling from an OpenAI-compatible server: vLLM's, llama.cpp's and others."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Final

import requests
from transformers import PreTrainedTokenizerBase

from rftt.samplers.sampler import Sample, Sampler, SampleRequest, SampleStream
from rftt.samplers.sampling import SamplingParams
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
    at fault (400 to 499, but not 408 and 429) is final. A search goes on from whatever was answered;
    one with a ``directory`` even survives a server that stays away.

    Token ids that a server gives back (vLLM does, llama.cpp's too) are taken as they are. For other
    servers the text is encoded again, which may split it otherwise than it was sampled.
    Log-probabilities are those that the server reports, ``nan`` where it reports none.

    Streams have no memory in common, so a newer one does not end an older one.

    Args:
        url: up to and including the version: ``http://localhost:8000/v1``.
        model: the name that the server knows the model by.
        tokenizer: the model's.
        temperature, top_p, min_p: as in :class:`~rftt.samplers.sampling.SamplingParams`; ``min_p`` is an
            extension that not every server has.
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
        key: str | None = None,
        concurrency: int = 32,
        timeout: float = 120.0,
        retries: int = 8,
        pause: float = 0.5,
    ) -> None:
        if concurrency < 1 or retries < 0:
            raise ValueError(
                f"concurrency must be 1 or more and retries 0 or more, not {concurrency} and {retries}"
            )
        self.url = url.rstrip("/")
        self.model = model
        self.tokenizer = tokenizer
        self.sampling_params = SamplingParams(temperature, top_p, min_p)
        self.concurrency = concurrency
        self.timeout = timeout
        self.retries = retries
        self.pause = pause
        self.tokenizer_size = self.vocab_size = len(tokenizer)
        self._session = requests.Session()
        self._session.mount(
            self.url, requests.adapters.HTTPAdapter(pool_maxsize=concurrency, pool_block=True)
        )
        if key is not None:
            self._session.headers["Authorization"] = f"Bearer {key}"

    def __fingerprint__(self) -> Mapping[str, Any]:
        return {"url": self.url, "model": self.model, "sampling_params": self.sampling_params}

    def stream(self, automaton: TokenAutomaton) -> SampleStream:
        return _ServerStream(self, self._stops(automaton))

    def next_log_probs(
        self, prompts: Sequence[tuple[int, ...]], states: Sequence[int], automaton: TokenAutomaton
    ) -> list[dict[int, float]]:
        """Raise ``NotImplementedError``: a server does not report full distributions."""
        raise NotImplementedError("a server does not give full distributions: use a prompted policy")

    def complete(self, request: SampleRequest, stops: Sequence[int]) -> Sample:
        """Sample until any of ``stops``, of which the first is the text that all contain.

        Raises:
            ConnectionError: naming the server and its last failure, once all tries are spent.
            RuntimeError: with the server's own words, if it finds the request at fault.
        """
        body = {
            "model": self.model,
            "prompt": list(request.prompt),
            "max_tokens": request.max_tokens,
            "temperature": self.sampling_params.temperature,
            "top_p": self.sampling_params.top_p,
            "seed": request.seed % _SEEDS,
            "stop": [self.tokenizer.decode([stops[0]])],
            "logprobs": 1,
            "return_token_ids": True,
        } | ({"min_p": self.sampling_params.min_p} if self.sampling_params.min_p else {})
        tries = self.retries + 1
        for tried in range(1, tries + 1):
            try:
                return self._sample(self.post(body)["choices"][0], request.max_tokens, stops)
            except (requests.RequestException, ValueError, KeyError, TypeError, IndexError) as error:
                failure = error
            if tried < tries:
                seconds = min(60.0, self.pause * 2 ** (tried - 1)) * random.uniform(0.5, 1.0)
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
        if 400 <= reply.status_code < 500 and reply.status_code not in _TEMPORARY:
            words = reply.text.strip()[:500]
            raise RuntimeError(f"{self.url} refused a request with error {reply.status_code}: {words}")
        reply.raise_for_status()
        return reply.json()

    def _sample(self, choice: Mapping[str, Any], max_tokens: int, stops: Sequence[int]) -> Sample:
        ids = choice.get("token_ids")
        if ids is None:
            ids = self.tokenizer.encode(choice["text"], add_special_tokens=False)
        ids = [int(i) for i in ids][:max_tokens]
        reported = (choice.get("logprobs") or {}).get("token_logprobs") or []
        log_probs = [float("nan") if p is None else float(p) for p in reported][: len(ids)]
        log_probs += [float("nan")] * (len(ids) - len(log_probs))
        stopped = choice["finish_reason"] == "stop"
        if stopped and len(ids) < max_tokens and not set(ids[-1:]) & set(stops):
            # Some servers leave out what they stopped at.
            ids.append(stops[0])
            log_probs.append(float("nan"))
        if not ids:
            raise ValueError("the reply is empty")
        return Sample(tuple(ids), tuple(log_probs))

    def _stops(self, automaton: TokenAutomaton) -> list[int]:
        """Return the stopping ids, that of the shortest text first."""
        if automaton.within:
            raise ValueError(
                "a server cannot keep to a grammar of functional tokens: use a prompted policy, or a "
                "sampler that runs the model itself"
            )
        special = set(self.tokenizer.all_special_ids)
        return sorted(
            automaton.specials(automaton.between[None]),
            key=lambda i: (i in special, len(self.tokenizer.decode([i])), i),
        )


class _ServerStream(SampleStream):
    """Requests in flight, each in a thread that waits for the server."""

    def __init__(self, sampler: ServerSampler, stops: Sequence[int]) -> None:
        self._sampler, self._stops = sampler, stops
        self._threads = ThreadPoolExecutor(sampler.concurrency)
        self._keys: dict[Future[Sample], int] = {}

    def add(self, key: int, request: SampleRequest) -> None:
        self._keys[self._threads.submit(self._sampler.complete, request, self._stops)] = key

    def collect(self) -> list[tuple[int, Sample]]:
        if not self._keys:
            return []
        try:
            done, _ = wait(self._keys, return_when=FIRST_COMPLETED)
            return [(self._keys.pop(future), future.result()) for future in done]
        except BaseException:
            self._threads.shutdown(wait=False, cancel_futures=True)
            raise
