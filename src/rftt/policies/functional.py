"""A policy for models that know the functional tokens: no prompts any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from rftt.interfaces import Extension, Segment, State
from rftt.policies.dialogue import Dialogue, SampledPolicy
from rftt.policies.sampler import Sample, Sampler, SampleRequest
from rftt.problems.problem import Problem, question_line
from rftt.tokens.automaton import grammar_automaton, with_stopping_copies
from rftt.tokens.functional import FunctionalTokens


class FunctionalPolicy(SampledPolicy):
    """Samples ``<function> body </function>`` after ``<function> body </function>`` under the grammar.

    A whole solution is one generation: the grammar's automaton allows only legal openers between
    steps and only the open step's closer within one.

    Args:
        sampler: produces tokens.
        tokenizer: of the sampler's model.
        tokens: the functional tokens in that tokenizer.
        question: how a problem opens the context; default its question and a new line.
    """

    def __init__(
        self,
        sampler: Sampler,
        tokenizer: PreTrainedTokenizerBase,
        tokens: FunctionalTokens,
        *,
        question: Callable[[Problem], str] = question_line,
    ) -> None:
        self.sampler = sampler
        self.tokenizer = tokenizer
        self.tokens = tokens
        self.grammar = tokens.grammar
        self.question = question
        banned = {i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None}
        solutions = grammar_automaton(
            tokens, vocabulary=sampler.vocabulary, size=sampler.size, banned=banned
        )
        self._single_steps = len(solutions.allowed)
        self.automaton = with_stopping_copies(solutions, tokens.closers.values())
        self._closes = dict(zip(tokens.closers.values(), tokens.closers, strict=True))
        self._opens = dict(zip(tokens.openers.values(), tokens.openers, strict=True))

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        between = [self.automaton.between[state.last] for state in states]
        log_probs = self.sampler.next_log_probs(
            [self.context(s) for s in states], between, self.automaton
        )
        return [
            {name: float(row[self.tokens.openers[name]]) for name in self.grammar.legal(state.last)}
            for state, row in zip(states, log_probs, strict=True)
        ]

    def dialogue(self, request: Extension) -> Dialogue:
        forced = self._forced(request)
        sample = yield self._asked(request, forced)
        return self._segments(forced, sample)[: request.max_steps]

    def context(self, state: State) -> tuple[int, ...]:
        """The ids a step follows: the question, then each step with its tags."""
        ids = tuple(self.tokenizer.encode(self.question(state.problem), add_special_tokens=False))
        for segment in state.steps:
            ids += segment.ids
        return ids

    def _forced(self, request: Extension) -> tuple[int, ...]:
        """Ids at the start of the reply that the searcher has decided."""
        if request.function is None:
            if request.prefix:
                raise ValueError(
                    f"problem {request.state.problem.id!r}: a prefix is the start of a body; "
                    "name the function whose body it is"
                )
            return ()
        return (self.tokens.openers[request.function], *request.prefix)

    def _asked(self, request: Extension, forced: tuple[int, ...]) -> SampleRequest:
        left = request.max_tokens - len(forced)
        if left < 1:
            raise ValueError(
                f"problem {request.state.problem.id!r}: {len(forced)} forced ids leave nothing of "
                f"max_tokens={request.max_tokens}"
            )
        if request.function is None:
            state = self.automaton.between[request.state.last]
        else:
            state = self.automaton.within[request.function]
        if request.until == "step":
            state += self._single_steps
        return SampleRequest(self.context(request.state) + forced, request.seed, state, left)

    def _segments(self, forced: tuple[int, ...], sample: Sample) -> list[Segment]:
        """Cut a reply after each closer; what is left at the end is a step that was cut short."""
        ids = forced + sample.ids
        log_probs = (0.0,) * len(forced) + sample.log_probs
        segments = []
        start = 0
        for position, token in enumerate(ids):
            is_closed = token in self._closes
            if is_closed or position + 1 == len(ids):
                function = self._opens[ids[start]]
                end = position + 1
                segments.append(
                    Segment(
                        function=function,
                        text=str(self.tokenizer.decode(list(ids[start + 1 : end - is_closed]))),
                        ids=ids[start:end],
                        log_probs=log_probs[start:end],
                        chosen=tuple(i >= len(forced) for i in range(start, end)),
                        is_final=not is_closed or self.grammar.is_terminal(function),
                        is_cut=not is_closed,
                        body_start=1,
                    )
                )
                start = end
        return segments
