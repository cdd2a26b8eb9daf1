"""A policy for models that know the functional tokens: no prompts any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from rftt.interfaces import GenerationRequest, State, Step
from rftt.policies.sampled import ContextLengthError, SampledPolicy, StepGenerator, probe
from rftt.problems.problem import Problem, question_line
from rftt.samplers.sampler import Sample, Sampler, SampleRequest
from rftt.tokens.automaton import grammar_automaton
from rftt.tokens.control import control_ids, encode_question
from rftt.tokens.functional import FunctionalTokens


class FunctionalPolicy(SampledPolicy):
    """Samples ``<function> body </function>`` after ``<function> body </function>`` under the grammar.

    A solution is one sample: the grammar's automaton allows only legal openers between steps,
    and only the open step's closer within one.

    Args:
        sampler: produces the tokens.
        tokenizer: the tokenizer of the sampler's model.
        tokens: the functional tokens in that tokenizer.
        question: the text with which a problem opens the context; default its question and a new line.
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
        banned = (control_ids(tokenizer) | sampler.end_ids).difference(tokens.ids)
        self.automaton = grammar_automaton(
            tokens, tokenizer_size=sampler.tokenizer_size, vocab_size=sampler.vocab_size, banned=banned
        )

    def __fingerprint__(self) -> Mapping[str, Any]:
        return {
            "sampler": self.sampler,
            "grammar": self.grammar,
            "openers": self.tokens.openers,
            "closers": self.tokens.closers,
            "question": probe(self.question),
        }

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        between = [self.automaton.between[state.last] for state in states]
        contexts = [self.context(state) for state in states]
        log_probs = self.sampler.next_log_probs(contexts, between, self.automaton)
        return [
            {name: special[self.tokens.openers[name]] for name in self.grammar.legal(state.last)}
            for state, special in zip(states, log_probs, strict=True)
        ]

    def steps(self, request: GenerationRequest) -> StepGenerator:
        if request.function is not None:
            state = self.automaton.within[request.function]
            forced = self.tokens.encode(request.function, request.prefix)[:-1]
        elif request.prefix:
            raise ValueError(
                f"problem {request.state.problem.id!r}: a prefix is the start of a body; "
                "name the function whose body it is"
            )
        else:
            state = self.automaton.between[request.state.last]
            forced = ()
        context = self.context(request.state) + forced
        try:
            sample = yield SampleRequest(context, request.seed, state, request.max_tokens, request.until)
        except ContextLengthError as error:
            function = request.function or self.grammar.legal(request.state.last)[0]
            opened = forced or (self.tokens.openers[function],)
            return [self.overlong_step(request.state.problem, function, opened, error)]
        return self._split(forced, sample)[: request.max_steps]

    def context(self, state: State) -> tuple[int, ...]:
        """Return the ids that a step follows: the question, then each step with its tags."""
        ids = list(encode_question(self.tokenizer, self.question(state.problem)))
        for step in state.steps:
            ids += step.ids
        return tuple(ids)

    def _split(self, forced: tuple[int, ...], sample: Sample) -> list[Step]:
        """Split forced and sampled ids into steps. Without its closer, the last is truncated."""
        ids = forced + sample.ids
        log_probs = (0.0,) * len(forced) + sample.log_probs
        action_mask = (False,) * len(forced) + (True,) * len(sample.ids)
        steps = []
        for span in self.tokens.split(ids):
            place = slice(span.start, span.end)
            body = ids[span.start + 1 : span.end - span.closed]
            steps.append(
                Step(
                    function=span.function,
                    text=str(self.tokenizer.decode(list(body))),
                    ids=ids[place],
                    log_probs=log_probs[place],
                    action_mask=action_mask[place],
                    terminal=not span.closed or self.grammar.is_terminal(span.function),
                    truncated=not span.closed,
                    body_start=1,
                )
            )
        return steps
