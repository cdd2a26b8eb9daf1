"""A stream of requests to a vLLM engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, evolve, frozen

from rftt.policies.distribution import Warp
from rftt.policies.sampler import Sample, SampleRequest, SampleStream
from rftt.policies.vllm_companions import TOGETHER, apart
from rftt.policies.vllm_engine import Engine
from rftt.tokens.automaton import TokenAutomaton


@frozen
class _Member:
    key: int
    seed: int


@define
class _Row:
    """Requests that are one for the engine.

    Attributes:
        context: what they have in common; its seed means nothing.
        drawn: what they had drawn before they became this row.
        first: the member that the engine draws for.
        companions: by number, those that have drawn the same ids so far.
        looked: at so many ids of the row.
    """

    context: SampleRequest
    drawn: Sample
    first: _Member
    companions: dict[int, _Member]
    looked: int = 0


class VLLMStream(SampleStream):
    """Requests of the same context, as samples of one step have at first, are one request of the engine
    until they draw different ids. Those that part from it begin anew, after the ids that they share."""

    def __init__(self, engine: Engine, automaton: TokenAutomaton, warp: Warp) -> None:
        self._engine, self._automaton, self._warp = engine, automaton, warp
        self._generation = engine.generation
        self._waiting: dict[SampleRequest, list[_Member]] = {}
        self._rows: dict[str, _Row] = {}

    def add(self, key: int, request: SampleRequest) -> None:
        context = evolve(request, seed=0)
        self._waiting.setdefault(context, []).append(_Member(key, request.seed))

    def collect(self) -> list[tuple[int, Sample]]:
        if self._generation != self._engine.generation:
            raise RuntimeError("these requests have been ended by a newer stream or newer weights")
        while self._waiting:
            # Taken out first: if the engine refuses one, no other is begun twice or lost.
            context = next(iter(self._waiting))
            self._begin(context, Sample((), ()), self._waiting.pop(context))
        done: list[tuple[int, Sample]] = []
        while self._rows and not done:
            for name, output in self._engine.news(self._rows).items():
                done += self._look(name, output)
        return done

    def _begin(self, context: SampleRequest, drawn: Sample, members: Sequence[_Member]) -> None:
        start, state = len(drawn.ids), context.state
        for token in drawn.ids:
            state = int(self._automaton.following[state, token])
        for place in range(0, len(members), TOGETHER):
            first, *others = members[place : place + TOGETHER]
            request = SampleRequest(
                context.prompt + drawn.ids, first.seed, state, context.max_tokens - start
            )
            name = self._engine.begin(
                request, self._automaton, self._warp,
                companions=[other.seed for other in others], start=start, priority=first.key,
            )  # fmt: skip
            self._rows[name] = _Row(context, drawn, first, dict(enumerate(others)))

    def _look(self, name: str, output: Any) -> list[tuple[int, Sample]]:
        """What an output has that is new; the samples that are finished."""
        row = self._rows[name]
        (completion,) = output.outputs
        reported = completion.logprobs
        ids = row.drawn.ids + tuple(completion.token_ids)
        # The first that is reported for a position is the id drawn.
        firsts = reported.start_indices
        log_probs = row.drawn.log_probs + tuple(reported.logprobs[first] for first in firsts)
        if row.companions:
            for place in range(row.looked, len(firsts)):
                some = slice(firsts[place] + 1, reported.end_indices[place])
                pairs = zip(reported.token_ids[some], reported.logprobs[some], strict=True)
                shared = len(row.drawn.ids) + place
                for numbers in apart(pairs).values():
                    members = [row.companions.pop(n) for n in numbers if n in row.companions]
                    if members:
                        self._begin(row.context, Sample(ids[:shared], log_probs[:shared]), members)
            row.looked = len(firsts)
        if not output.finished:
            return []
        del self._rows[name]
        return [(m.key, Sample(ids, log_probs)) for m in (row.first, *row.companions.values())]
