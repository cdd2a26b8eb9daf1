"""A finite policy whose steps are several ids, as a model with functional tokens writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

from attrs import evolve

from rftt.interfaces import GenerationRequest, Step
from rftt.samplers.sampling import SamplingParams
from rftt.testing.finite.model import QUESTION, FinitePolicy
from rftt.testing.finite.tabular import Reply
from rftt.tokens.automaton import TokenAutomaton, grammar_automaton
from rftt.tokens.functional import FunctionalTokens
from rftt.tokens.grammar import Grammar

OBSERVATION: Final = ":"
"""The word of a step's text after which the policy draws nothing: a tool's result follows."""


class SpelledPolicy(FinitePolicy):
    """A finite policy that spells its steps: an opener, one id for each word of the text, a closer.

    An opener that the searcher forces is not drawn, and neither is what follows the word ``:`` in a
    step, as the result of a tool. One more id, the last, is never drawn: the automaton forbids it.

    Args:
        grammar, table, sampling_params: as in :class:`~rftt.testing.finite.model.FinitePolicy`.
    """

    def __init__(
        self,
        grammar: Grammar,
        table: Mapping[tuple[str, ...], Sequence[Reply]],
        sampling_params: SamplingParams | None = None,
    ) -> None:
        super().__init__(grammar, table, sampling_params)
        names = list(grammar.functions)
        openers = {name: 1 + place for place, name in enumerate(names)}
        closers = {name: 1 + len(names) + place for place, name in enumerate(names)}
        words = dict.fromkeys(
            word for some in self.table.values() for reply in some for word in reply.text.split()
        )
        self._words = {word: 1 + 2 * len(names) + place for place, word in enumerate(words)}
        self._tokens = FunctionalTokens(grammar, openers, closers)
        self._automaton = grammar_automaton(
            self._tokens, tokenizer_size=self.vocabulary, vocab_size=self.vocabulary,
            banned=(QUESTION, *self.banned),
        )  # fmt: skip

    @property
    def vocabulary(self) -> int:
        return 2 + 2 * len(self.grammar.functions) + len(self._words)

    @property
    def banned(self) -> tuple[int, ...]:
        return (self.vocabulary - 1,)

    @property
    def automaton(self) -> TokenAutomaton | None:
        """The grammar's."""
        return self._automaton

    def ids(self, reply: Reply) -> tuple[int, ...]:
        body = (self._words[word] for word in reply.text.split())
        return (self._tokens.openers[reply.function], *body, self._tokens.closers[reply.function])

    def _complete(self, request: GenerationRequest) -> list[Step]:
        if request.function is not None:
            # Refuses a prefix that would close the step or open another.
            self._tokens.encode(request.function, request.prefix)
        return _cut(super()._complete(request), request.max_tokens)

    def _sample(
        self, path: tuple[str, ...], function: str | None, prefix: tuple[int, ...], rng: Random
    ) -> Step:
        replies = self.replies(path)
        fitting = [
            reply
            for reply in replies
            if function in (None, reply.function) and self.ids(reply)[1 : 1 + len(prefix)] == prefix
        ]
        if not fitting:
            return super()._sample(path, function, prefix or (QUESTION,), rng)
        reply = rng.choices(fitting, [reply.probability for reply in fitting])[0]
        ids, words = self.ids(reply), ("", *reply.text.split(), "")
        forced = 1 + len(prefix) if prefix else int(function is not None)
        result = words.index(OBSERVATION) if OBSERVATION in words else len(ids)
        drawn = [forced <= place <= result for place in range(len(ids))]
        return Step(
            function=reply.function,
            text=reply.text,
            ids=ids,
            log_probs=[
                self._log_prob(replies, ids[: place + 1]) if drawn[place] else 0.0
                for place in range(len(ids))
            ],
            action_mask=drawn,
            terminal=(*path, reply.text) not in self.table,
            body_start=1,
        )

    def _log_prob(self, replies: Sequence[Reply], ids: tuple[int, ...]) -> float:
        """Return the log-probability of the last id after those before it."""
        before, after = (
            math.fsum(r.probability for r in replies if self.ids(r)[: len(some)] == some)
            for some in (ids[:-1], ids)
        )
        return math.log(after / before)


def _cut(steps: list[Step], max_tokens: int) -> list[Step]:
    """Return the steps up to the last id that may be drawn."""
    left = max_tokens
    for number, step in enumerate(steps):
        drawn = [place for place, is_drawn in enumerate(step.action_mask) if is_drawn]
        if len(drawn) > left:
            end = drawn[left]
            text = " ".join(step.text.split()[: max(0, end - step.body_start)])
            cut = evolve(
                step, text=text, ids=step.ids[:end], log_probs=step.log_probs[:end],
                action_mask=step.action_mask[:end], terminal=True, truncated=True,
            )  # fmt: skip
            return [*steps[:number], cut] if end else steps[:number]
        left -= len(drawn)
    return steps
