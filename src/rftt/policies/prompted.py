"""A policy for models that do not know the functional tokens: functional prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerBase

from rftt.interfaces import GenerationRequest, State, Step
from rftt.policies.sampled import SampledPolicy, StepGenerator, probe
from rftt.problems.problem import BOXED, Problem, question_line
from rftt.samplers.sampler import Sample, Sampler, SampleRequest
from rftt.tokens.automaton import stop_automaton
from rftt.tokens.grammar import Grammar


class PromptedPolicy(SampledPolicy):
    """Asks for each step with a prompt in plain words, and takes one line of the reply as its body.

    A solution ends with a step of a terminal function, or with one that holds a boxed answer where a
    terminal function may follow. The context of a step is the ids of the question, of earlier prompts
    and of earlier bodies exactly as they were sampled; prompts are not kept in the steps.

    The prior is uniform over the legal functions that this policy may use: a model that does not
    know the functions has no opinion on them.

    Args:
        sampler: produces the tokens.
        tokenizer: the tokenizer of the sampler's model.
        grammar: which function may follow which.
        functions: the functions to use; default all. A search for warm-up data uses the first five
            of the paper.
        prompts: the text that asks for a function's step; default its description and a colon.
        question: the text with which a problem opens the context; default its question and a new line.
        stop: text that ends a body; every id whose text contains it ends the sample.

    Raises:
        ValueError: if a function is not in the grammar, or no id of the tokenizer contains ``stop``.
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
        self.question = question
        self.functions = frozenset(grammar.functions if functions is None else functions)
        described = {name: f"{function.description}:" for name, function in grammar.functions.items()}
        self.prompts: dict[str, str] = described | dict(prompts or {})
        for name, given in [("functions", self.functions), ("prompts", self.prompts)]:
            if unknown := set(given) - set(grammar.functions):
                raise ValueError(f"{name}: {sorted(unknown)} are not in the grammar")
        # A question, perhaps with many examples, comes again at each of its steps.
        self._encode = lru_cache(maxsize=4096)(
            lambda text: tuple(tokenizer.encode(text, add_special_tokens=False))
        )
        stops = [i for i in range(sampler.tokenizer_size) if stop in tokenizer.decode([i])]
        if not stops:
            raise ValueError(f"stop: no id of the tokenizer contains {stop!r}")
        ends = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
        self._stop_ids = frozenset([*stops, *ends])
        self.automaton = stop_automaton(
            self._stop_ids, tokenizer_size=sampler.tokenizer_size, vocab_size=sampler.vocab_size
        )

    def __fingerprint__(self) -> Mapping[str, Any]:
        return {
            "sampler": self.sampler,
            "grammar": self.grammar,
            "functions": self.functions,
            "prompts": self.prompts,
            "question": probe(self.question),
            "stop_ids": self._stop_ids,
        }

    def legal(self, last: str | None) -> tuple[str, ...]:
        """Return the functions of this policy that may follow ``last``."""
        return tuple(name for name in self.grammar.legal(last) if name in self.functions)

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        priors: list[Mapping[str, float]] = []
        for state in states:
            legal = self.legal(state.last)
            priors.append({name: -math.log(len(legal)) for name in legal})
        return priors

    def steps(self, request: GenerationRequest) -> StepGenerator:
        rng = Random(request.seed)
        context = self.context(request.state)
        completion: list[Step] = []
        left = request.max_tokens
        while not completion or not (
            completion[-1].terminal
            or request.until == "step"
            or len(completion) >= request.max_steps
            or left < 1
        ):
            function = self._function(request, completion, rng)
            prefix = () if completion else request.prefix
            step = yield from self._step(context, function, rng.getrandbits(63), left, prefix)
            completion.append(step)
            left -= sum(step.action_mask)
            context += self._encode(self.prompts[function]) + step.ids
        return completion

    def ask(
        self,
        states: Sequence[State],
        function: str,
        *,
        hints: Sequence[str],
        seeds: Sequence[int],
        max_tokens: int = 512,
    ) -> list[Step]:
        """Sample one step of ``function`` for each state after a hint: text that comes before the
        prompt and is not kept. Cross-verification shows the model the right step so."""

        def only(state: State, hint: str, seed: int) -> StepGenerator:
            context = self.context(state) + self._encode(hint)
            return [(yield from self._step(context, function, seed, max_tokens, ()))]

        completions = self.run_steps([*map(only, states, hints, seeds)])
        return [step for (step,) in completions]

    def body(self, step: Step) -> tuple[int, ...]:
        """Return a step's ids without the id that stopped it."""
        return step.ids[:-1] if step.ids[-1] in self._stop_ids else step.ids

    def context(self, state: State) -> tuple[int, ...]:
        """Return the ids that a step follows: the question, then each prompt and the body it got."""
        ids = list(self._encode(self.question(state.problem)))
        for step in state.steps:
            ids += self._encode(self.prompts[step.function])
            ids += step.ids
        return tuple(ids)

    def _function(self, request: GenerationRequest, completion: Sequence[Step], rng: Random) -> str:
        if not completion and request.function is not None:
            return request.function
        last = completion[-1].function if completion else request.state.last
        legal = self.legal(last)
        if not legal:
            raise ValueError(
                f"problem {request.state.problem.id!r}: none of {sorted(self.functions)} may follow "
                f"{last!r}; allow more functions"
            )
        return rng.choice(legal)

    def _step(
        self,
        context: tuple[int, ...],
        function: str,
        seed: int,
        max_tokens: int,
        prefix: tuple[int, ...],
    ) -> Generator[SampleRequest, Sample, Step]:
        prompt = context + self._encode(self.prompts[function]) + prefix
        state = self.automaton.between[None]
        sample = yield SampleRequest(prompt, seed, state, max_tokens)
        ids = prefix + sample.ids
        truncated = ids[-1] not in self._stop_ids
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
        may_end = any(self.grammar.is_terminal(name) for name in self.grammar.legal(function))
        return Step(
            function=function,
            text=text,
            ids=ids,
            log_probs=(0.0,) * len(prefix) + sample.log_probs,
            action_mask=(False,) * len(prefix) + (True,) * len(sample.ids),
            terminal=truncated or not self.legal(function) or (may_end and BOXED in text),
            truncated=truncated,
        )
