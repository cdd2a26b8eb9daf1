"""A policy for models that do not know the functional tokens: functional prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from functools import lru_cache
from random import Random

from transformers import PreTrainedTokenizerBase

from rftt.interfaces import Extension, Segment, State
from rftt.policies.dialogue import Dialogue, SampledPolicy
from rftt.policies.sampler import Sample, Sampler, SampleRequest
from rftt.problems.problem import BOXED, Problem, question_line
from rftt.tokens.automaton import stop_automaton
from rftt.tokens.grammar import Grammar


class PromptedPolicy(SampledPolicy):
    """Asks for each step with a prompt in plain words, and takes one line of reply as its body.

    A solution is over when a step whose function may be followed by a terminal function holds a
    boxed answer, or when a terminal function has spoken. The context of a step is the ids of the
    question, of earlier prompts and of earlier bodies exactly as they were sampled; only prompts
    are not kept in the segments.

    The prior is uniform over the legal functions that this policy may use: a model that does not
    know the functions has no opinion on them.

    Args:
        sampler: produces tokens.
        tokenizer: of the sampler's model.
        grammar: who may follow whom.
        functions: the functions to use; default all. A search for warm-up data uses the first five
            of the paper.
        prompts: for each function, the text that asks for it; default its description and a colon.
        question: how a problem opens the context; default its question and a new line.
        stop: text that ends a body; every id whose text contains it stops the sample.
    """

    def __init__(
        self,
        sampler: Sampler,
        tokenizer: PreTrainedTokenizerBase,
        grammar: Grammar,
        *,
        functions: Collection[str] | None = None,
        prompts: Mapping[str, str] | None = None,
        question: Callable[[Problem], str] = question_line,
        stop: str = "\n",
    ) -> None:
        self.sampler = sampler
        self.tokenizer = tokenizer
        self.grammar = grammar
        self.functions = frozenset(grammar.functions if functions is None else functions)
        unknown = self.functions - set(grammar.functions)
        if unknown:
            raise ValueError(f"functions: {sorted(unknown)} are not in the grammar")
        self.question = question
        # A question, perhaps with many examples, comes again at each of its steps.
        self._encode = lru_cache(maxsize=4096)(
            lambda text: tuple(tokenizer.encode(text, add_special_tokens=False))
        )
        texts = {name: f"{function.description}:" for name, function in grammar.functions.items()}
        self._prompts = {
            name: self._encode(text) for name, text in (texts | dict(prompts or {})).items()
        }
        vocabulary = sampler.vocabulary
        stops = [i for i in range(vocabulary) if stop in tokenizer.decode([i])]
        if not stops:
            raise ValueError(f"stop: no id of the tokenizer contains {stop!r}")
        ends = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
        self._stops = frozenset([*stops, *ends])
        self.automaton = stop_automaton(self._stops, vocabulary, sampler.size)

    def legal(self, last: str | None) -> tuple[str, ...]:
        """The functions of this policy that may follow ``last``."""
        return tuple(name for name in self.grammar.legal(last) if name in self.functions)

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        priors: list[Mapping[str, float]] = []
        for state in states:
            legal = self.legal(state.last)
            priors.append({name: -math.log(len(legal)) for name in legal})
        return priors

    def dialogue(self, request: Extension) -> Dialogue:
        rng = Random(request.seed)
        context = self.context(request.state)
        chain: list[Segment] = []
        while not chain or not self._is_over(request, chain):
            left = request.max_tokens - sum(len(segment.ids) for segment in chain)
            function = self._function(request, chain, rng)
            prefix = () if chain else request.prefix
            segment = yield from self._step(context, function, rng.getrandbits(63), left, prefix)
            chain.append(segment)
            context += self._prompts[function] + segment.ids
        return chain

    def ask(
        self,
        states: Sequence[State],
        function: str,
        *,
        hints: Sequence[str],
        seeds: Sequence[int],
        max_tokens: int = 512,
    ) -> list[Segment]:
        """One step of ``function`` for each state, after showing the model a hint: text that comes
        before the prompt and is not kept. Cross-verification shows the right step so."""
        dialogues = [
            self._only_step(self.context(state) + self._encode(hint), function, seed, max_tokens)
            for state, hint, seed in zip(states, hints, seeds, strict=True)
        ]
        return [step for (step,) in self.hold(dialogues)]

    def _only_step(
        self, context: tuple[int, ...], function: str, seed: int, max_tokens: int
    ) -> Dialogue:
        return [(yield from self._step(context, function, seed, max_tokens, ()))]

    def body(self, segment: Segment) -> tuple[int, ...]:
        """A segment's ids without the id that stopped it."""
        return segment.ids[:-1] if segment.ids[-1] in self._stops else segment.ids

    def context(self, state: State) -> tuple[int, ...]:
        """The ids a step is asked after: the question, then each prompt and the body it got."""
        ids = self._encode(self.question(state.problem))
        for segment in state.steps:
            ids += self._prompts[segment.function] + segment.ids
        return ids

    def _function(self, request: Extension, chain: Sequence[Segment], rng: Random) -> str:
        if not chain and request.function is not None:
            return request.function
        legal = self.legal(chain[-1].function if chain else request.state.last)
        if not legal:
            raise ValueError(
                f"problem {request.state.problem.id!r}: none of {sorted(self.functions)} may follow "
                f"{chain[-1].function if chain else request.state.last!r}; allow more functions"
            )
        return rng.choice(legal)

    def _step(
        self,
        context: tuple[int, ...],
        function: str,
        seed: int,
        max_tokens: int,
        prefix: tuple[int, ...],
    ) -> Generator[SampleRequest, Sample, Segment]:
        prompt = context + self._prompts[function] + prefix
        sample = yield SampleRequest(prompt, seed, 1, max_tokens - len(prefix))
        ids = prefix + sample.ids
        is_cut = ids[-1] not in self._stops
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
        may_end = any(self.grammar.is_terminal(name) for name in self.grammar.legal(function))
        return Segment(
            function=function,
            text=text,
            ids=ids,
            log_probs=(0.0,) * len(prefix) + sample.log_probs,
            chosen=(False,) * len(prefix) + (True,) * len(sample.ids),
            is_final=is_cut or not self.legal(function) or (may_end and BOXED in text),
            is_cut=is_cut,
        )

    @staticmethod
    def _is_over(request: Extension, chain: Sequence[Segment]) -> bool:
        spent = sum(len(segment.ids) for segment in chain)
        return (
            chain[-1].is_final
            or request.until == "step"
            or len(chain) >= request.max_steps
            or spent >= request.max_tokens
        )
