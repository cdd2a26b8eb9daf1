"""A policy for models that do not know the functional tokens: functional prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from functools import lru_cache, partial
from random import Random
from typing import Any, Literal, get_args

from transformers import PreTrainedTokenizerBase

from rftt.interfaces import GenerationRequest, State, Step
from rftt.policies.chat import plain_prompts
from rftt.policies.sampled import ContextLengthError, SampledPolicy, StepGenerator, probe
from rftt.problems.problem import BOXED, Problem, question_line
from rftt.samplers.sampler import Sample, Sampler, SampleRequest
from rftt.tokens.automaton import stop_automaton
from rftt.tokens.control import control_ids, encode_question
from rftt.tokens.grammar import Grammar

Choice = Literal["uniform", "model"]
"""What draws the function of the next step."""


class PromptedPolicy(SampledPolicy):
    """Asks for each step with a prompt in plain words, and takes one line of the reply as its body.

    A solution ends with a step of a terminal function, or with one that holds a boxed answer where a
    terminal function may follow. The context of a step is the ids of the question, of earlier prompts
    and of earlier bodies as they were sampled; an end of text, after which a model expects another turn,
    is there the text of ``stop``. Prompts are not kept in the steps.

    No body is empty: an id that only ends a body (a new line, an end of text) has probability 0 until
    something else than white space was drawn. Special tokens, such as those that open a turn of a chat,
    are never drawn.

    Which function comes next is drawn from the prior: uniformly from the legal functions that this
    policy may use, or by the model, from the likelihoods of the first ids of their prompts. So a model
    goes on with steps like those of its worked examples, and answers when it is done.

    Args:
        sampler: produces the tokens.
        tokenizer: the tokenizer of the sampler's model.
        grammar: which function may follow which.
        functions: the functions to use; default all. A search for warm-up data uses the first five
            of the paper.
        prompts: the text that asks for a function's step; default its description and a colon.
        openings: text that opens the body of a function's steps, as forced ids, such as ``\\boxed{`` for
            one that states an answer. A request's own prefix takes its place.
        choice: what draws the next function, ``"uniform"`` or ``"model"``; a server cannot do the
            latter.
        question: the text with which a problem opens the context; default its question and a new line.
        stop: text that ends a body; every id whose text contains it ends the sample, and so do the ends
            of text of the tokenizer and of the model's generation config. Of other control ids only one
            that is this very text does: ``">"`` is in the names of most.

    Raises:
        ValueError: if a function is not in the grammar, no id but control ids contains ``stop``, or the
            model is to choose between prompts that begin with the same id.
    """

    def __init__(
        self,
        sampler: Sampler,
        tokenizer: PreTrainedTokenizerBase,
        grammar: Grammar,
        *,
        functions: Collection[str] | None = None,
        prompts: Mapping[str, str] | None = None,
        openings: Mapping[str, str] | None = None,
        choice: Choice = "uniform",
        question: Callable[[Problem], str] = question_line,
        stop: str = "\n",
    ) -> None:
        self.sampler = sampler
        self.tokenizer = tokenizer
        self.grammar = grammar
        self.question = question
        self.functions = frozenset(grammar.functions if functions is None else functions)
        self.prompts: dict[str, str] = plain_prompts(grammar) | dict(prompts or {})
        self.openings = dict(openings or {})
        self.choice = choice
        if choice not in get_args(Choice):
            raise ValueError(f"choice must be one of {', '.join(get_args(Choice))}, not {choice!r}")
        for name in ("functions", "prompts", "openings"):
            if unknown := set(getattr(self, name)) - set(grammar.functions):
                raise ValueError(f"{name}: {sorted(unknown)} are not in the grammar")
        # A question, perhaps with many examples, comes again at each of its steps.
        self._encode = lru_cache(maxsize=4096)(
            lambda text: tuple(tokenizer.encode(text, add_special_tokens=False))
        )
        self._encode_question = lru_cache(maxsize=4096)(partial(encode_question, tokenizer))
        texts = [str(tokenizer.decode([i])) for i in range(sampler.tokenizer_size)]
        control = control_ids(tokenizer)
        stops = {
            i for i, text in enumerate(texts) if stop in text and (i not in control or text == stop)
        }
        if not stops:
            raise ValueError(f"stop: no id of the tokenizer, control ids aside, contains {stop!r}")
        ends = set(sampler.end_ids)
        if tokenizer.eos_token_id is not None:
            ends.add(tokenizer.eos_token_id)
        self._stop_ids = frozenset(stops | ends)
        self._ends = ends - stops
        self._blank_ids = ends.union(i for i, text in enumerate(texts) if not text.strip())
        self._stop = self._encode(stop)
        self.automaton = stop_automaton(
            self._stop_ids,
            tokenizer_size=sampler.tokenizer_size,
            vocab_size=sampler.vocab_size,
            blank_ids=self._blank_ids,
            banned=control - self._stop_ids,
            choices=self._choices() if choice == "model" else None,
        )

    def __fingerprint__(self) -> Mapping[str, Any]:
        return {
            "sampler": self.sampler,
            "grammar": self.grammar,
            "functions": self.functions,
            "prompts": self.prompts,
            "openings": self.openings,
            "choice": self.choice,
            "question": probe(self.question),
            "stop_ids": self._stop_ids,
        }

    def legal(self, last: str | None) -> tuple[str, ...]:
        """Return the functions of this policy that may follow ``last``."""
        return tuple(name for name in self.grammar.legal(last) if name in self.functions)

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        legal = [self.legal(state.last) for state in states]
        if self.choice == "uniform":
            return [{name: -math.log(len(names)) for name in names} for names in legal]
        # After some functions none of those in use may follow.
        open_states = [state for state, names in zip(states, legal, strict=True) if names]
        found = iter(
            self.sampler.next_log_probs(
                [self.context(state) for state in open_states],
                [self.automaton.choices[state.last] for state in open_states],
                self.automaton,
            )
        )
        specials = [next(found) if names else {} for names in legal]
        return [
            {name: special[self._first_id(name)] for name in names}
            for names, special in zip(legal, specials, strict=True)
        ]

    def _choices(self) -> dict[str | None, set[int]]:
        """Return, for each function after which there is one, the first ids of the prompts that may come
        next."""
        choices: dict[str | None, set[int]] = {}
        for last in (None, *self.grammar.functions):
            by_id: dict[int, str] = {}
            for name in self.legal(last):
                first = self._first_id(name)
                if (other := by_id.setdefault(first, name)) != name:
                    raise ValueError(
                        f"prompts of {other!r} and {name!r} begin with the same id, "
                        f"{self.tokenizer.decode([first])!r}, so the model cannot choose between them: "
                        "give prompts that differ in their first word, or choice='uniform'"
                    )
            if by_id:
                choices[last] = set(by_id)
        return choices

    def _first_id(self, function: str) -> int:
        ids: tuple[int, ...] = self._encode(self.prompts[function])
        if not ids:
            raise ValueError(f"the prompt of {function!r} is empty, so no model can choose it")
        return ids[0]

    def steps(self, request: GenerationRequest) -> StepGenerator:
        rng = Random(request.seed)
        problem = request.state.problem
        context = self.context(request.state)
        completion: list[Step] = []
        left = request.max_tokens
        while not completion or not (
            completion[-1].terminal
            or request.until == "step"
            or len(completion) >= request.max_steps
            or left < 1
        ):
            try:
                function = yield from self._function(request, completion, context, rng)
            except ContextLengthError as error:
                last = completion[-1].function if completion else request.state.last
                return [*completion, self.overlong_step(problem, self.legal(last)[0], (), error)]
            prefix = (() if completion else request.prefix) or self._opening(function)
            seed = rng.getrandbits(63)
            step = yield from self._step(problem, context, function, seed, left, prefix)
            completion.append(step)
            left -= sum(step.action_mask)
            context += self._told(step)
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
            prefix = self._opening(function)
            step = yield from self._step(state.problem, context, function, seed, max_tokens, prefix)
            return [step]

        completions = self.run_steps([*map(only, states, hints, seeds)])
        return [step for (step,) in completions]

    def body(self, step: Step) -> tuple[int, ...]:
        """Return a step's ids without the id that stopped it."""
        return step.ids[:-1] if set(step.ids[-1:]) & self._stop_ids else step.ids

    def context(self, state: State) -> tuple[int, ...]:
        """Return the ids that a step follows: the question, then each prompt and the body it got."""
        ids = list(self._encode_question(self.question(state.problem)))
        for step in state.steps:
            ids += self._told(step)
        return tuple(ids)

    def _told(self, step: Step) -> tuple[int, ...]:
        """Return what later steps see of a step: the prompt, and the body with what ends it."""
        ids = step.ids
        if set(ids[-1:]) & self._ends:
            ids = ids[:-1] + self._stop
        return self._encode(self.prompts[step.function]) + ids

    def _function(
        self,
        request: GenerationRequest,
        completion: Sequence[Step],
        context: tuple[int, ...],
        rng: Random,
    ) -> Generator[SampleRequest, Sample, str]:
        if not completion and request.function is not None:
            return request.function
        last = completion[-1].function if completion else request.state.last
        legal = self.legal(last)
        if not legal:
            raise ValueError(
                f"problem {request.state.problem.id!r}: none of {sorted(self.functions)} may follow "
                f"{last!r}; allow more functions"
            )
        if self.choice == "uniform":
            return rng.choice(legal)
        drawn = yield SampleRequest(context, rng.getrandbits(63), self.automaton.choices[last], 1)
        return next(name for name in legal if self._first_id(name) == drawn.ids[0])

    def _opening(self, function: str) -> tuple[int, ...]:
        return self._encode(self.openings.get(function, ""))

    def _step(
        self,
        problem: Problem,
        context: tuple[int, ...],
        function: str,
        seed: int,
        max_tokens: int,
        prefix: tuple[int, ...],
    ) -> Generator[SampleRequest, Sample, Step]:
        prompt = context + self._encode(self.prompts[function]) + prefix
        state = self.automaton.between[None]
        following = self.automaton.body_following
        if following is not None and not self._blank_ids.issuperset(prefix):
            state = int(following[state])
        try:
            sample = yield SampleRequest(prompt, seed, state, max_tokens)
        except ContextLengthError as error:
            return self.overlong_step(problem, function, prefix, error)
        ids = prefix + sample.ids
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
        # A limit may come before anything but white space.
        truncated = ids[-1] not in self._stop_ids or not text
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
