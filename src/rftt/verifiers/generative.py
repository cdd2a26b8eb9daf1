"""A policy as the judge: it is asked about a solution, or made to check it, several times."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from attrs import field, frozen, validators

from rftt.interfaces import GenerationRequest, Policy, State, Step, Verdict, Verifier
from rftt.problems.problem import Problem
from rftt.tokens.grammar import Grammar
from rftt.verifiers.forks import ForkLock, computing
from rftt.verifiers.model_verdicts import ModelVerifier, Unscored

Ask = Callable[[State], State | None]
"""The state whose next step is a judgement of the given one; ``None`` where it cannot be judged."""

Read = Callable[[str], float | None]
"""What a judgement's text says, from 0 for wrong to 1 for right; ``None`` where it says neither."""

_sampling: Final = ForkLock()
"""A sampler serves one stream at a time."""


@frozen
class AskAbout:
    """Ask about a solution in words: a new problem whose question shows the old one and the solution.

    Attributes:
        template: the new question, with ``{question}`` and ``{solution}``, the bodies of the steps, one
            a line.
    """

    template: str = (
        "Question: {question}\n\nSolution:\n{solution}\n\nIs this solution right? Answer yes or no."
    )

    def __call__(self, state: State) -> State:
        solution = "\n".join(step.text.strip() for step in state.steps)
        text = self.template.format(question=state.problem.question, solution=solution)
        # A tokenizer refuses half a character.
        return State(Problem(f"judge {state.problem.id}", text.encode(errors="replace").decode()))


@frozen
class AskToVerify:
    """Make a policy check a solution as it does while it reasons: the solution up to its last step that
    a ``verify`` step may follow. A final ``output`` step is so left out.

    Attributes:
        grammar: the policy's.
        function: the function of the step that checks.
    """

    grammar: Grammar
    function: str = "verify"

    def __call__(self, state: State) -> State | None:
        for end in range(len(state.steps), 0, -1):
            if self.function in self.grammar.legal(state.steps[end - 1].function):
                return State(state.problem, state.steps[:end])
        return None


def _words(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word.lower() for word in words)


@frozen
class Words:
    """Read a judgement by the first of some words in it.

    Attributes:
        right, wrong: the words, in any case; they count as whole words only.
    """

    right: tuple[str, ...] = field(converter=_words, validator=validators.min_len(1))
    wrong: tuple[str, ...] = field(converter=_words, validator=validators.min_len(1))

    def __call__(self, text: str) -> float | None:
        words = "|".join(map(re.escape, (*self.right, *self.wrong)))
        found = re.search(rf"(?<!\w)({words})(?!\w)", text.lower())
        return None if found is None else float(found[1] in self.right)


YES_OR_NO: Final = Words(("yes", "right", "correct"), ("no", "not", "wrong", "incorrect"))
"""Reads ``Yes, it is.`` as 1 and ``This is not right.`` as 0."""


@frozen
class OutOf:
    """Read a judgement by the first number in it, as a share of the best.

    Attributes:
        best: the number that means right, such as 10; 0 means wrong. A larger number says nothing.
    """

    best: float = field(default=10.0, validator=validators.gt(0))

    def __call__(self, text: str) -> float | None:
        found = re.search(r"(?<![\w.])\d{1,9}(\.\d{1,9})?", text)
        share = math.inf if found is None else float(found[0]) / self.best
        return share if share <= 1 else None


class GenerativeVerifier(ModelVerifier):
    """Scores states, complete or partial, by what a policy says of them: the mean of several samples.

    A judge in words is a prompted policy with a grammar of one function; a policy with functional tokens
    can judge by the steps it checks itself with::

        judge = Grammar([Function("judge", "yes or no")], start=["judge"], followers={})
        GenerativeVerifier(PromptedPolicy(sampler, tokenizer, judge), AskAbout(), YES_OR_NO)

        ask, read = AskToVerify(policy.grammar), Words(["ok"], ["not"])
        GenerativeVerifier(policy, ask, read, function="verify")

    The mean is no probability: see :func:`rftt.verifiers.calibration.calibrate`.

    The seeds of the samples are made from the state's question and steps, so a verdict depends on its
    state alone. Nothing is read from a gold answer. A judgement that a limit cut short is not read. A
    state of which none can be read is abstained from, counted in ``abstained`` and logged.

    Calls from several threads take turns. The policy's sampler serves one stream at a time, so a search
    that streams from the same sampler needs another one for the judge. A verifier can be pickled if its
    policy can.

    Args:
        policy: judges.
        ask: gives the state to continue.
        read: reads the text of the step that continues it.
        function: forces the function of that step; ``None`` lets the policy choose.
        samples: judgements of a state.
        max_tokens: most sampled ids of a judgement.
        seed: other seeds give other samples.
        answers: extracts and compares answers, such as :class:`~rftt.verifiers.math.MathVerifier`.
            Without it there is no answer, and answers are compared as texts.

    Raises:
        ValueError: if ``samples`` is less than 1.
    """

    def __init__(
        self,
        policy: Policy,
        ask: Ask,
        read: Read,
        *,
        function: str | None = None,
        samples: int = 8,
        max_tokens: int = 256,
        seed: int = 0,
        answers: Verifier | None = None,
    ) -> None:
        super().__init__(answers)
        if samples < 1:
            raise ValueError(f"samples must be 1 or more, not {samples}")
        self.policy = policy
        self.ask = ask
        self.read = read
        self.function = function
        self.samples = samples
        self.max_tokens = max_tokens
        self.seed = seed

    def __fingerprint__(self) -> Mapping[str, Any]:
        settings = ("policy", "ask", "read", "function", "samples", "max_tokens", "seed", "answers")
        return {name: getattr(self, name) for name in settings}

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        answers = self._answers(states)
        asked = [self.ask(state) if state.steps else None for state in states]
        requests = [
            GenerationRequest(
                shown, _seed(self.seed, number, state), self.function, "step", 1, self.max_tokens
            )
            for state, shown in zip(states, asked, strict=True)
            if shown is not None
            for number in range(self.samples)
        ]
        judgements = iter(self._sampled(requests))
        return [
            self._verdict(state, answer, [next(judgements) for _ in range(self.samples)])
            if shown is not None
            else self._abstain(state, answer, _nothing_to_judge(state))
            for state, answer, shown in zip(states, answers, asked, strict=True)
        ]

    def _sampled(self, requests: Sequence[GenerationRequest]) -> list[Step]:
        if not requests:
            return []
        with _sampling, computing():
            completions = self.policy.extend(requests)
        if len(completions) != len(requests):
            raise ValueError(
                f"{type(self.policy).__name__}.extend returned {len(completions)} completions for "
                f"{len(requests)} requests; return one for each, in order"
            )
        return [completion[0] for completion in completions]

    def _verdict(self, state: State, answer: str | None, judgements: Sequence[Step]) -> Verdict:
        whole = [step for step in judgements if not step.truncated]
        said = [what for step in whole if (what := self.read(step.text)) is not None]
        if not said:
            cut = len(judgements) - len(whole)
            reason = (
                f"none of {len(judgements)} judgements could be read, and {cut} of them were cut short; "
                f"the last is {judgements[-1].text!r:.80}"
            )
            return self._abstain(state, answer, Unscored(reason))
        reason = f"{len(said)} of {len(judgements)} judgements were read"
        return Verdict(math.fsum(said) / len(said), answer, reason)


def _nothing_to_judge(state: State) -> Unscored:
    if not state.steps:
        return Unscored("there is no step to judge yet", is_fault=False)
    return Unscored("no step of the solution may be followed by a judgement")


def _seed(seed: int, sample: int, state: State) -> int:
    steps = [(step.function, step.text, step.ids) for step in state.steps]
    told = json.dumps([seed, sample, state.problem.question, steps])
    return int.from_bytes(hashlib.blake2b(told.encode(), digest_size=8).digest()) >> 1
