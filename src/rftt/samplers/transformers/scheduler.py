"""Continuous batching: requests join a running batch as others leave it.

Each pass of :meth:`Scheduler.collect`:

1. preempt sequences, highest keys first, if all together have outgrown their share of memory;
2. select waiting requests, lowest keys first, whose prompts are to be prefilled next;
3. assign them slots of the KV cache, those just left first, and keep all slots in use at the front;
4. run the model on the last id of every slot and on what is unknown of new prompts;
5. draw an id for every request; requests that share a slot and draw different ids part.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import count, islice
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rftt.samplers.model_state import non_finite
from rftt.samplers.rng import uniform
from rftt.samplers.sampler import Sample, SampleRequest, SampleStream
from rftt.samplers.sampling import NonFiniteError, SamplingParams, draw, log_probabilities
from rftt.samplers.transformers.batch import (
    HEADROOM,
    Entry,
    ScoreRequest,
    SequenceGroup,
    decode_segment,
    prefill_passes,
)
from rftt.samplers.transformers.kv_cache import KVCache, SlotSource
from rftt.samplers.transformers.memory import MemoryPlan
from rftt.samplers.transformers.model_runner import ModelRunner
from rftt.samplers.transformers.prefix_cache import PrefixCache, extend_hash
from rftt.samplers.transformers.slots import Source, assign_slots
from rftt.tokens.automaton import END, TokenAutomaton

_MAX_PREFILL_IDS: Final = 8192
"""Most ids of prompts that are computed in one pass."""


class Scheduler(SampleStream):
    """Stream of sample requests over one model, which also serves score requests.

    Args:
        runner: runs the model.
        kv_cache: its slots are all free to use.
        prefix_cache: what the model has computed before.
        automaton: what samples keep to.
        params: how ids are drawn.
        batch_size: most requests that run at a time.
        plan: the memory that they may take together.
        weights_version: returns what is equal for equal weights.
    """

    def __init__(
        self,
        runner: ModelRunner,
        kv_cache: KVCache,
        prefix_cache: PrefixCache,
        automaton: TokenAutomaton,
        params: SamplingParams,
        batch_size: int,
        plan: MemoryPlan,
        weights_version: Callable[[], object],
    ) -> None:
        self._runner = runner
        self._kv = kv_cache
        self._prefixes = prefix_cache
        self._automaton = automaton
        self._mask = None if automaton.allows_everything else automaton.to(runner.model.device).mask
        self._params = params
        self._batch_size = batch_size
        self._plan = plan
        self._weights_version = weights_version
        self._weights = weights_version()
        self._ended = False
        self._added = count()
        self._waiting: list[Entry] = []
        self._pending: list[tuple[SequenceGroup, Source]] = []
        """Groups that need a slot, and where the beginnings of their contexts are."""
        self._slots: list[SequenceGroup | None] = []
        self._left: dict[int, tuple[int, int]] = {}
        """By hash, contexts that ended in the last pass: the free slots that still hold them, and their
        lengths."""
        self._in_flight = 0
        self._finished: list[tuple[int, Sample]] = []

    def add(self, key: int, request: SampleRequest) -> None:
        self._plan.check(len(request.prompt), request.max_tokens)
        self._in_flight += 1
        heapq.heappush(self._waiting, (key, next(self._added), request))

    @torch.no_grad()
    def collect(self) -> list[tuple[int, Sample]]:
        if self._in_flight and not self.is_current:
            raise RuntimeError(
                f"this stream was ended by a newer stream or newer weights of its sampler, with "
                f"{self._in_flight} requests in flight: collect them before opening another stream or "
                "changing the model"
            )
        with self._runner.evaluating():
            while self._in_flight and not self._finished:
                self._step()
        finished, self._finished = self._finished, []
        self._in_flight -= len(finished)
        return finished

    @torch.no_grad()
    def score(self, requests: Sequence[ScoreRequest]) -> None:
        """Work until some requests are done. Samples that are finished meanwhile wait for
        :meth:`collect`."""
        for request in requests:
            self._plan.check(len(request.prompt), 0)
        for request in requests:
            heapq.heappush(self._waiting, (-1, next(self._added), request))
        with self._runner.evaluating():
            while any(request.log_probs is None for request in requests):
                self._step()

    @property
    def is_current(self) -> bool:
        """Return whether no newer stream and no newer weights have ended this one."""
        return not self._ended and self._weights == self._weights_version()

    def end(self) -> None:
        """End the stream: a newer one is about to use the KV cache."""
        self._ended = True

    def _step(self) -> None:
        self._preempt()
        self._select_prefills()
        self._assign_slots()
        groups = [group for group in self._slots if group is not None]
        store = self._kv.store
        *earlier, last = prefill_passes(groups, store.device, self._plan)
        for segments in earlier:
            self._runner.forward(store, segments)
        logits = self._runner.forward(store, [*last, decode_segment(groups, store.device)])
        for slot, group in enumerate(groups):
            if group.num_cached < len(group.prompt):
                self._keep_prompt(slot, group)
        self._score(groups, logits)
        self._draw(groups, logits)

    def _preempt(self) -> None:
        """Send sequences back to those that wait until the others have room for their next ids.

        They begin again. What they have drawn they draw again, so it is not kept."""
        groups = sorted(self._active(), key=lambda group: group.entries[0][:2])
        lengths = [group.before + 1 for group in groups]
        draws = sum(len(group.entries) for group in groups)
        sent_back: set[SequenceGroup] = set()
        while len(groups) > 1 and not self._plan.fits(lengths, draws):
            group = groups.pop()
            lengths.pop()
            draws -= len(group.entries)
            sent_back.add(group)
            for entry in group.entries:
                heapq.heappush(self._waiting, entry)
        if not sent_back:
            return
        self._slots = [None if group in sent_back else group for group in self._slots]
        self._pending = [pair for pair in self._pending if pair[0] not in sent_back]

    def _active(self) -> list[SequenceGroup]:
        """Return the groups that have a slot or need one."""
        return [*filter(None, self._slots), *(group for group, _ in self._pending)]

    def _select_prefills(self) -> None:
        """Take requests that are to be prefilled next from those that wait, while there is room.

        A beginning that several prompts share is computed once: others wait until the prefix cache has
        it, and so does what is too much for one pass.
        """
        # Requests that share a slot now may need one each.
        lengths = [group.planned for group in self._active() for _ in group.entries]
        groups: defaultdict[object, list[Entry]] = defaultdict(list)
        while self._waiting and len(lengths) < self._batch_size:
            request = self._waiting[0][2]
            key: object = id(request)
            length = len(request.prompt)
            if isinstance(request, SampleRequest):
                key = request.prompt, request.state
                length += min(request.max_tokens, HEADROOM)
            lengths.append(length)
            if len(lengths) > 1 and not self._plan.fits(lengths, len(lengths)):
                break
            groups[key].append(heapq.heappop(self._waiting))
        claimed: set[int] = set()
        left = _MAX_PREFILL_IDS
        for entries in groups.values():
            request = entries[0][2]
            hashes = self._prefixes.hashes(request.prompt[:-1])
            source, num_cached = self._find(hashes)
            unknown = len(request.prompt) - num_cached
            claim = extend_hash(hashes[num_cached], request.prompt[num_cached])
            if (unknown > 1 and claim in claimed) or (unknown > left and claimed):
                for entry in entries:
                    heapq.heappush(self._waiting, entry)
                continue
            claimed.add(claim)
            left -= unknown
            group = SequenceGroup(request.prompt, request.state, entries, num_cached, hashes[num_cached])
            self._pending.append((group, source))

    def _find(self, hashes: Sequence[int]) -> tuple[Source, int]:
        """Return where the longest known prefix is, a slot just left or places in the prefix cache, and
        its length."""
        places = self._prefixes.match(hashes)
        for length in range(len(hashes) - 1, len(places) - 1, -1):
            if hashes[length] in self._left:
                return self._left[hashes[length]][0], length
        return places, len(places)

    def _assign_slots(self) -> None:
        """Give each pending group a slot, and bring the beginning of its context there, within the
        running batch's share of memory."""
        assigned = assign_slots(self._slots, self._pending)
        groups = [group for group, _ in assigned]
        sources = [
            SlotSource(source if isinstance(source, int) else None, group.held, group.before + 1)
            for group, source in assigned
        ]
        draws = sum(len(group.entries) for group in groups)
        working = self._plan.working_bytes(len(groups), draws, max(source.needed for source in sources))
        limit = max(group.limit for group in groups)
        self._kv.arrange(sources, limit, self._plan.running_bytes - working)
        for slot, (_, source) in enumerate(assigned):
            if not isinstance(source, int):
                self._prefixes.copy(source, self._kv.tokens(slot, 0, len(source)))
        self._slots = [*groups]
        self._pending, self._left = [], {}

    def _keep_prompt(self, slot: int, group: SequenceGroup) -> None:
        """Put what was computed of a prompt into the prefix cache."""
        start, end = group.num_cached, len(group.prompt)
        self._prefixes.missed += end - start
        group.prefix_hash = self._prefixes.insert(
            group.prefix_hash, group.prompt[start:], self._kv.tokens(slot, start, end)
        )
        group.num_cached = end

    def _score(self, groups: Sequence[SequenceGroup], logits: Float[Tensor, "slots size"]) -> None:
        """Answer score requests; their slots are free again."""
        for slot, group in enumerate(groups):
            if isinstance(request := group.entries[0][2], ScoreRequest):
                mask = request.automaton.mask(torch.tensor([request.state])).to(logits.device)
                log_probs = log_probabilities(logits[slot : slot + 1], mask)[0]
                special = request.automaton.specials(request.state)
                request.log_probs = dict(zip(special, log_probs[special].tolist(), strict=True))
                self._leave(slot, group, group.prefix_hash)

    def _draw(self, groups: Sequence[SequenceGroup], logits: Float[Tensor, "slots size"]) -> None:
        """Draw an id for each sample request."""
        slots = [slot for slot in range(len(groups)) if self._slots[slot] is not None]
        if not slots:
            return
        sizes = [len(groups[slot].entries) for slot in slots]
        rows = np.repeat(slots, sizes)
        seeds = [seed for slot in slots for seed in groups[slot].seeds]
        positions = np.repeat([len(groups[slot].ids) for slot in slots], sizes)
        noise = torch.from_numpy(uniform(np.array(seeds, np.int64), positions)).to(logits.device)
        states = torch.full((len(groups),), END)
        states[slots] = torch.tensor([groups[slot].state for slot in slots])
        mask = None if self._mask is None else self._mask(states.to(logits.device))
        sources = torch.from_numpy(rows).to(logits.device)
        try:
            ids, log_probs = (t.cpu() for t in draw(logits, mask, self._params, noise, sources))
        except NonFiniteError as error:
            # The pass is lost for all others, too, and slots may hold keys that are not finite.
            self.end()
            drawing = [
                (request, len(groups[slot].ids))
                for slot in slots
                for *_, request in groups[slot].entries
                if isinstance(request, SampleRequest)
            ]
            raise non_finite(self._runner.model, [drawing[i] for i in error.draws]) from error
        following = self._automaton.next_states(states[rows], ids).tolist()
        closes = self._automaton.closes(ids).tolist()
        drawn = zip(ids.tolist(), log_probs.tolist(), following, closes, strict=True)
        for slot, size in zip(slots, sizes, strict=True):
            self._advance(slot, groups[slot], list(islice(drawn, size)))

    def _advance(
        self, slot: int, group: SequenceGroup, drawn: Sequence[tuple[int, float, int, bool]]
    ) -> None:
        """Add what was drawn for a group's requests: finish some, and part those that go on with
        different ids."""
        going_on: dict[tuple[int, float, int], list[Entry]] = {}
        finished = len(self._finished)
        for entry, (token, log_prob, state, closes) in zip(group.entries, drawn, strict=True):
            key, _, request = entry
            assert isinstance(request, SampleRequest)
            is_last = len(group.ids) + 1 >= request.max_tokens or (closes and request.until == "step")
            if state == END or is_last:
                sample = Sample((*group.ids, token), (*group.log_probs, log_prob))
                self._finished.append((key, sample))
            else:
                going_on.setdefault((token, log_prob, state), []).append(entry)
        if len(self._finished) > finished:
            tokens = self._kv.tokens(slot, len(group.prompt), group.before + 1)
            context = self._prefixes.insert(group.prefix_hash, group.ids, tokens)
            if not going_on:
                self._leave(slot, group, context)
                return
        (token, log_prob, group.state), group.entries = going_on.popitem()
        for (other, its_log_prob, state), entries in going_on.items():
            fork = SequenceGroup(group.prompt, state, entries, group.num_cached, group.prefix_hash)
            fork.ids, fork.log_probs = [*group.ids, other], [*group.log_probs, its_log_prob]
            self._pending.append((fork, slot))
        group.ids.append(token)
        group.log_probs.append(log_prob)

    def _leave(self, slot: int, group: SequenceGroup, context: int) -> None:
        """Free a slot, which holds a context of this hash for requests that go on with it."""
        self._slots[slot] = None
        self._left[context] = slot, group.before + 1
