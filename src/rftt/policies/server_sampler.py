"""Sampling from an OpenAI-compatible server: vLLM's, llama.cpp's and others."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Final

import requests
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rftt.policies.distribution import Warp
from rftt.policies.sampler import Sample, Sampler, SampleRequest, SampleStream
from rftt.tokens.automaton import END, TokenAutomaton

_SEEDS: Final = 1 << 31
"""Servers take seeds of 32 bits at least."""


class ServerSampler(Sampler):
    """Completions over HTTP, for prompted policies: a server has stops, but no grammar.

    Each request is tried again after a failure of any kind: refused, dropped, too slow, an error, or a
    reply that is not what it should be. A search goes on from whatever was answered; give it a
    ``folder`` and it even survives a server that stays away.

    A server that gives token ids back (vLLM does, llama.cpp's too) is taken at its word. For others the
    text is encoded again, which may split it otherwise than it was sampled. Log-probabilities are those
    that the server reports, ``nan`` where it reports none.

    Args:
        url: up to and including the version: ``http://localhost:8000/v1``.
        model: the name that the server knows the model by.
        tokenizer: the model's.
        temperature, top_p, min_p: as in :class:`~rftt.policies.distribution.Warp`; ``min_p`` is an
            extension that not every server has.
        key: sent as a bearer token.
        concurrency: most requests under way.
        timeout: seconds that one try may take.
        retries: tries after the first.
        pause: seconds before the second try; twice as long before each later one, up to a minute, and
            anything from half of that to the whole.
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
        self.warp = Warp(temperature, top_p, min_p)
        self.concurrency = concurrency
        self.timeout = timeout
        self.retries = retries
        self.pause = pause
        self.vocabulary = self.size = len(tokenizer)
        self._session = requests.Session()
        self._session.mount(
            self.url, requests.adapters.HTTPAdapter(pool_maxsize=concurrency, pool_block=True)
        )
        if key is not None:
            self._session.headers["Authorization"] = f"Bearer {key}"

    def stream(self, automaton: TokenAutomaton) -> SampleStream:
        return _Requests(self, self._stops(automaton))

    def next_log_probs(
        self, prompts: Sequence[tuple[int, ...]], states: Sequence[int], automaton: TokenAutomaton
    ) -> Float[Tensor, "prompts size"]:
        """Not to be had from a server; raises ``NotImplementedError``."""
        raise NotImplementedError("a server does not give whole distributions: use a prompted policy")

    def complete(self, request: SampleRequest, stops: Sequence[int]) -> Sample:
        """One sample that ends at any of ``stops``, of which the first is the text that all contain.

        Raises ``ConnectionError`` naming the server and its last failure once all tries are spent.
        """
        body = {
            "model": self.model,
            "prompt": list(request.prompt),
            "max_tokens": request.max_tokens,
            "temperature": self.warp.temperature,
            "top_p": self.warp.top_p,
            "seed": request.seed % _SEEDS,
            "stop": [self.tokenizer.decode([stops[0]])],
            "logprobs": 1,
            "return_token_ids": True,
        } | ({"min_p": self.warp.min_p} if self.warp.min_p else {})
        failure: Exception | None = None
        for tried in range(self.retries + 1):
            if tried:
                longest = min(60.0, self.pause * 2 ** (tried - 1))
                time.sleep(longest * random.uniform(0.5, 1.0))
            try:
                return self._sample(self.post(body)["choices"][0], request.max_tokens, stops)
            except (requests.RequestException, ValueError, KeyError, TypeError, IndexError) as error:
                failure = error
        raise ConnectionError(
            f"{self.url} failed {self.retries + 1} times, at last with {failure!r}; a search with a "
            "folder can be started again and goes on from its last round"
        ) from failure

    def post(self, body: Mapping[str, Any]) -> Any:
        """One try: what the server says to a completions request.

        Raises ``requests.RequestException`` where it says nothing or an error, or no JSON.
        """
        reply = self._session.post(f"{self.url}/completions", json=body, timeout=self.timeout)
        reply.raise_for_status()
        return reply.json()

    def _sample(self, choice: Mapping[str, Any], most: int, stops: Sequence[int]) -> Sample:
        ids = choice.get("token_ids")
        if ids is None:
            ids = self.tokenizer.encode(choice["text"], add_special_tokens=False)
        ids = [int(i) for i in ids][:most]
        reported = (choice.get("logprobs") or {}).get("token_logprobs") or []
        log_probs = [float("nan") if p is None else float(p) for p in reported][: len(ids)]
        log_probs += [float("nan")] * (len(ids) - len(log_probs))
        if choice["finish_reason"] == "stop" and len(ids) < most and not set(ids[-1:]) & set(stops):
            # Some servers leave out what they stopped at.
            ids.append(stops[0])
            log_probs.append(float("nan"))
        if not ids:
            raise ValueError("the reply is empty")
        return Sample(tuple(ids), tuple(log_probs))

    def _stops(self, automaton: TokenAutomaton) -> list[int]:
        """The stopping ids, that of the shortest text first."""
        state = automaton.between[None]
        if automaton.within:
            raise ValueError(
                "a server cannot keep to a grammar of functional tokens: use a prompted policy, or a "
                "sampler that runs the model itself"
            )
        ends = (automaton.following[state] == END).nonzero()[:, 0].tolist()
        special = set(self.tokenizer.all_special_ids)
        return sorted(ends, key=lambda i: (i in special, len(self.tokenizer.decode([i])), i))


class _Requests(SampleStream):
    """Requests under way, in threads that wait for the server."""

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
