"""Where a server's sample ends: a server knows stops, but no automaton."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

from attrs import frozen
from transformers import PreTrainedTokenizerBase

from rftt.samplers.sampler import Sample
from rftt.tokens.automaton import TokenAutomaton
from rftt.tokens.control import control_ids


@frozen
class Stops:
    """What ends a sample.

    Attributes:
        ids: the stopping ids.
        control: ids that no sample may hold.
        first: the stopping id of the shortest text, which the texts of all but ends of text contain.
        text: its text.
        start: the automaton's state in which a blank stop must not come; ``None`` if samples may be
            blank.
        blank_stops: stopping ids that must not come there.
        blank: all ids of which a sample must not consist alone.
    """

    ids: frozenset[int]
    control: frozenset[int]
    first: int
    text: str
    start: int | None
    blank_stops: frozenset[int]
    blank: frozenset[int]

    @staticmethod
    def of(automaton: TokenAutomaton, tokenizer: PreTrainedTokenizerBase) -> Stops:
        """Read the stops of an automaton.

        Raises:
            ValueError: if it is a grammar's, or ids stand for functions in it.
        """
        if automaton.choices:
            raise ValueError(
                "a server cannot choose among a few ids: leave out choice='model', or take a sampler "
                "that runs the model itself"
            )
        if automaton.within:
            raise ValueError(
                "a server cannot keep to a grammar of functional tokens: use a prompted policy, or a "
                "sampler that runs the model itself"
            )
        special = frozenset(automaton.special_ids.tolist())
        ids = frozenset(automaton.special_ids[automaton.closing].tolist())
        control = control_ids(tokenizer)
        first = min(ids, key=lambda i: (i in control, len(tokenizer.decode([i])), i))
        between = automaton.between[None]
        blank_stops = ids.difference(automaton.specials(between))
        return Stops(
            ids=ids,
            control=control - ids,
            first=first,
            text=str(tokenizer.decode([first])),
            start=None if automaton.body_following is None else between,
            blank_stops=blank_stops,
            blank=blank_stops | (special - ids),
        )

    def is_blank(self, sample: Sample, state: int) -> bool:
        """Return whether a sample that begins in a state is blank, where it must not be."""
        return state == self.start and self.blank.issuperset(sample.ids)

    def cut(
        self, ids: Sequence[int], log_probs: Sequence[float], *, stopped: bool, max_tokens: int
    ) -> Sample:
        """Make a sample of what a server gave: it ends with the first stop, and before an id that none
        may hold.

        Args:
            ids: the server's.
            log_probs: of the first of them; NaN for the rest.
            stopped: whether the server stopped; some leave out what they stopped at.
            max_tokens: most ids.

        Raises:
            ValueError: if there is nothing.
        """
        pairs: list[tuple[int, float]] = []
        reported = [*log_probs, *[math.nan] * len(ids)]
        for token, log_prob in islice(zip(ids, reported, strict=False), max_tokens):
            if token in self.control:
                stopped = True
                break
            pairs.append((token, log_prob))
            if token in self.ids:
                return _sample(pairs)
        if stopped and len(pairs) < max_tokens:
            pairs.append((self.first, math.nan))
        if not pairs:
            raise ValueError("the reply is empty")
        return _sample(pairs)


def _sample(pairs: Sequence[tuple[int, float]]) -> Sample:
    return Sample(tuple(token for token, _ in pairs), tuple(log_prob for _, log_prob in pairs))
