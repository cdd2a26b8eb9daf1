"""Sampling from an OpenAI-compatible server: vLLM's, llama.cpp's and others."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import requests
from attrs import evolve
from transformers import PreTrainedTokenizerBase

from rftt.samplers.availability import UNREADY
from rftt.samplers.chat_completions import ChatTemplate, chat_body, check_prompt, completion_of
from rftt.samplers.completions import Reply, banned, completion_body, read_max_length, read_reply
from rftt.samplers.connection import Connection, TooLongError
from rftt.samplers.sampler import Sample, Sampler, SampleRequest, SampleStream
from rftt.samplers.sampling import SamplingParams
from rftt.samplers.stops import Stops
from rftt.samplers.thread_stream import ThreadStream
from rftt.tokens.automaton import TokenAutomaton

_LOG: Final = logging.getLogger(__name__)

_SEEDS: Final = 1 << 31
"""Servers take seeds of 32 bits at least."""


class ServerSampler(Sampler):
    """Completions over HTTP, for prompted policies: a server has stops, but no grammar.

    A request that fails is tried again, with a line in the log: refused, dropped, too slow, an error of
    the server, or a reply that is not what it should be. An error that says that the request itself is
    at fault (400 to 499, but not 408 and 429) is final, but for one that is too long for the model's
    context: its sample is empty, which ends that request alone. A search goes on from whatever was
    answered; one with a ``directory`` even survives a server that stays away.

    A server that has given samples and then takes no connections is away, not at fault: it was killed,
    and is started again. Waiting for it costs no tries; the log says once that it is away and once that
    it is back.

    Token ids that a server gives back (vLLM does, llama.cpp's too) are taken as they are. For other
    servers the text is encoded again, which may split it otherwise than it was sampled; where that gives
    another number of ids, their log-probabilities are NaN. A sample ends before an id that no text may
    hold, such as one that opens a turn.

    All settings of sampling are sent, so that a server's own defaults do not count. Log-probabilities
    are those that the server reports, NaN where it reports none. At another temperature than 1, or with
    truncation, most servers report those of the model and not those of the distribution drawn from; they
    are then NaN, too, with a warning, unless the server says otherwise (llama.cpp does) or
    ``processed_log_probs`` is given. Greedy ones are 0.

    Where no sample may be blank, one that is has its first id drawn again with ``logit_bias`` against
    white space that ends it.

    Streams have no memory in common, so a newer one does not end an older one.

    Chat models are asked at ``/completions`` with the ids of their template. For a server that has only
    ``/chat/completions``, which takes no ids, ``endpoint="chat"`` splits each prompt into the turns that
    the tokenizer's chat template made it of. A server that does not go on with the last of them, or
    reads other ids, is refused. What was sampled in other pieces than the tokenizer cuts its text into
    is read in those, and log-probabilities of what follows are NaN.

    Args:
        url: up to and including the version: ``http://localhost:8000/v1``.
        model: the name that the server knows the model by.
        tokenizer: the model's.
        temperature, top_p, min_p: as in :class:`~rftt.samplers.sampling.SamplingParams`.
        max_length: the length of the model's context; default what the server says in ``/models``, as
            vLLM and llama.cpp do.
        endpoint: ``"completions"``, or ``"chat"`` for a server that has only that.
        processed_log_probs: whether the server reports log-probabilities of the distribution drawn
            from, as vLLM does if it runs with ``--logprobs-mode processed_logprobs``.
        fields: what is sent beside or in place of the usual fields; ``None`` leaves one out, for a
            server that refuses what it does not know. Settings of the chat template are
            ``chat_template_kwargs``.
        key: sent as a bearer token.
        concurrency: most requests in flight.
        timeout: seconds that one try may take.
        retries: tries after the first.
        wait: seconds that a request waits for a server that is away, however many tries that takes; 0
            leaves it to ``retries``. A large model takes minutes to start.
        pause: seconds before the second try; twice as long before each later one, up to a minute, and
            anything from half of that to the full time. At a server that is away, at most 10.

    Raises:
        ValueError: if a setting makes no sense, or ``endpoint="chat"`` comes with a tokenizer without a
            usable chat template.
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
        endpoint: Literal["completions", "chat"] = "completions",
        processed_log_probs: bool = False,
        fields: Mapping[str, Any] | None = None,
        key: str | None = None,
        concurrency: int = 32,
        timeout: float = 120.0,
        retries: int = 8,
        wait: float = 900.0,
        pause: float = 0.5,
    ) -> None:
        if endpoint not in ("completions", "chat"):
            raise ValueError(f"endpoint must be 'completions' or 'chat', not {endpoint!r}")
        self.url = url.rstrip("/")
        self.model = model
        self.tokenizer = tokenizer
        self.sampling_params = SamplingParams(temperature, top_p, min_p)
        self.endpoint = endpoint
        self.processed_log_probs = processed_log_probs
        self.fields = dict(fields or {})
        self.concurrency = concurrency
        self.tokenizer_size = self.vocab_size = len(tokenizer)
        self._connection = Connection(
            self.url, _LOG, key=key, concurrency=concurrency, timeout=timeout, retries=retries,
            wait=wait, pause=pause,
        )  # fmt: skip
        self._template: ChatTemplate | None = None
        if endpoint == "chat":
            settings = self.fields.get("chat_template_kwargs") or {}
            self._template = ChatTemplate(tokenizer, **settings)
        self._max_length = max_length
        self._asked_length = max_length is not None
        self._warned = False

    def __fingerprint__(self) -> Mapping[str, Any]:
        found = {"url": self.url, "model": self.model, "sampling_params": self.sampling_params}
        if self.endpoint != "completions":
            found["endpoint"] = self.endpoint
        return found | ({"fields": self.fields} if self.fields else {})

    @property
    def retries(self) -> int:
        """Return the tries that a request has after the first."""
        return self._connection.retries

    @property
    def retried(self) -> int:
        """Return the number of tries that failed and were followed by another."""
        return self._connection.retried

    @property
    def max_length(self) -> int | None:  # type: ignore[override]
        """Return the length of the model's context, as given or as the server says, if it does.

        Raises:
            ConnectionError: as :meth:`complete` does.
        """
        if not self._asked_length:
            # Without it a search might end otherwise, so a server that starts is waited for.
            self._max_length = self._connection.persist(self._ask_length, threading.Event())
            self._asked_length = True
        return self._max_length

    def _ask_length(self) -> int | None:
        try:
            reply = self._connection.get("models")
            if reply.status_code in UNREADY:
                reply.raise_for_status()
            return read_max_length(reply.json(), self.model) if reply.ok else None
        except (requests.ReadTimeout, requests.JSONDecodeError):
            _LOG.info("%s does not say how long the context of its model is", self.url)
            return None

    def stream(self, automaton: TokenAutomaton) -> SampleStream:
        stops = Stops.of(automaton, self.tokenizer)
        return ThreadStream(
            lambda request, ended: self.complete(request, stops, ended), self.concurrency
        )

    def next_log_probs(
        self, prompts: Sequence[tuple[int, ...]], states: Sequence[int], automaton: TokenAutomaton
    ) -> list[dict[int, float]]:
        """Raise ``NotImplementedError``: a server does not report full distributions."""
        raise NotImplementedError("a server does not give full distributions: use a prompted policy")

    def complete(
        self, request: SampleRequest, stops: Stops, ended: threading.Event | None = None
    ) -> Sample:
        """Sample until a stop.

        Args:
            request: what to sample.
            stops: where it ends.
            ended: is set when no one waits for the sample any more.

        Raises:
            ConnectionError: naming the server and its last failure, once all tries are spent, or the
                server was away for too long.
            RuntimeError: with the server's own words, if it finds the request at fault; or if it did not
                read the prompt as it is.
            CancelledError: if ``ended`` is set before another try.
        """
        ended = ended or threading.Event()
        try:
            sample = self._ask(request, stops, ended)
            if not stops.is_blank(sample, request.state):
                return sample
            bias = {"logit_bias": banned(stops.control | stops.blank_stops), "stop": None}
            first = self._ask(evolve(request, max_tokens=1), stops, ended, bias)
            if request.max_tokens == 1 or stops.is_blank(first, request.state):
                return first
            prompt, left = request.prompt + first.ids, request.max_tokens - 1
            rest = self._ask(evolve(request, prompt=prompt, max_tokens=left), stops, ended)
            return Sample(first.ids + rest.ids, first.log_probs + rest.log_probs)
        except TooLongError:
            return Sample((), ())

    def _ask(
        self,
        request: SampleRequest,
        stops: Stops,
        ended: threading.Event,
        fields: Mapping[str, Any] | None = None,
    ) -> Sample:
        """Ask for one sample, several times if need be."""
        seed = request.seed % _SEEDS
        params = self.sampling_params
        body = completion_body(self.model, request.prompt, request.max_tokens, seed, params)
        read = request.prompt
        if self._template is not None:
            turns, read = self._template.turns(request.prompt)
            body = chat_body(body, turns)
        body |= {"stop": [stops.text], "logit_bias": banned(stops.control)}
        body |= {**(fields or {}), **self.fields}
        body = {name: value for name, value in body.items() if value is not None}

        def sample() -> Sample:
            asked = time.monotonic()
            reply = self.post(body)
            if self._template is not None:
                reply = completion_of(reply)
                check_prompt(self.url, reply, read)
            found = self._sample(read_reply(reply), request.max_tokens, stops)
            self._connection.note_sample(asked)
            return found

        found = self._connection.persist(sample, ended)
        return found if read == request.prompt else evolve(found, log_probs=(math.nan,) * len(found.ids))

    def post(self, body: Mapping[str, Any]) -> Any:
        """Post a request to the endpoint once and return the reply; errors are those of
        :meth:`~rftt.samplers.connection.Connection.post`."""
        path = "completions" if self._template is None else "chat/completions"
        return self._connection.post(path, body)

    def _sample(self, reply: Reply, max_tokens: int, stops: Stops) -> Sample:
        ids, log_probs = reply.ids, self._log_probs(reply)
        if ids is None:
            ids = tuple(self.tokenizer.encode(reply.text, add_special_tokens=False))
            # Some report what a sample stopped at, of which the text says nothing.
            if not 0 <= len(log_probs) - len(ids) <= 1:
                log_probs = []
        return stops.cut(ids, log_probs, stopped=reply.stopped, max_tokens=max_tokens)

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
