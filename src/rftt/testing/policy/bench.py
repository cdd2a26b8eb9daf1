"""The policy that is checked, what it is asked for, and how completions are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, TypeVar

from attrs import define, field

from rftt.interfaces import GenerationRequest, Policy, State, Step
from rftt.problems.problem import Problem
from rftt.testing.promises import ContractViolation

Item = TypeVar("Item", GenerationRequest, State)
Reply = TypeVar("Reply")
Build = Callable[[], Policy]
"""Makes a policy; always with the same settings and weights."""
Logits = Callable[[tuple[int, ...]], Any]
"""A plain forward pass: of ids, a tensor of the logits that follow each of them."""


class Untried(Exception):  # noqa: N818
    """A promise that cannot be tried on this policy, with the reason."""


@define(eq=False)
class Bench:
    """What a policy is made from and tried on.

    Attributes:
        build: makes it, or is it.
        problems: what it continues.
        max_tokens: most drawn ids of a completion that is to end by itself.
        draws: completions of one state that frequencies are taken from.
        tolerance: the difference of two log-probabilities that counts as none.
        max_changed_share: the largest share of completions that may be others in another batch.
        logits: a plain forward pass of the model; ``None`` to take that of the policy's sampler.
        random: decides seeds, orders and choices.
        policy: the one that most is asked of.
        states: what is continued, none of them finished.
        requests: what is asked for, of all kinds.
        completions: what :attr:`policy` replied to them in one call.
        sampled: draws of single steps, by state and forced function.
        compared: completions that were compared with the same request's in another call.
        changed: how many of them had other ids.
        largest_difference: of two log-probabilities of the same id in two calls.
    """

    build: Build | Policy
    problems: list[Problem]
    max_tokens: int
    draws: int
    tolerance: float
    max_changed_share: float
    logits: Logits | None
    random: Random
    policy: Policy = field(init=False)
    states: list[State] = field(factory=list)
    requests: list[GenerationRequest] = field(factory=list)
    completions: list[list[Step]] = field(factory=list)
    sampled: list[tuple[State, str | None, list[list[Step]]]] = field(factory=list)
    compared: int = 0
    changed: int = 0
    largest_difference: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.policy = self.fresh()

    def fresh(self) -> Policy:
        """Return a policy that was asked nothing; where one was given, that one.

        Raises:
            TypeError: if what was made is none.
        """
        policy = self.build if isinstance(self.build, Policy) else self.build()
        if not isinstance(policy, Policy):
            raise TypeError(f"build: it made a {type(policy).__name__}, not a Policy")
        return policy

    def seed(self) -> int:
        """Return a seed as the engine makes them: any number of 63 bits."""
        return self.random.getrandbits(63)

    def extend(
        self,
        requests: Sequence[GenerationRequest],
        broken: type[ContractViolation],
        policy: Policy | None = None,
    ) -> list[list[Step]]:
        """Ask for completions in one call.

        Raises:
            ContractViolation: ``broken``, if it raises or does not return one list of steps for each.
        """
        replies = one_for_each((policy or self.policy).extend, requests, broken)
        for request, reply in zip(requests, replies, strict=True):
            if not isinstance(reply, list | tuple) or not reply:
                raise broken(f"a completion is {reply!r:.90}; return at least one step", asked(request))
            if wrong := [step for step in reply if not isinstance(step, Step)]:
                raise broken(f"a step is a {type(wrong[0]).__name__}, not a Step", asked(request))
        return replies

    def prior(
        self,
        states: Sequence[State],
        broken: type[ContractViolation],
        policy: Policy | None = None,
    ) -> list[Mapping[str, float]]:
        """Ask for priors in one call.

        Raises:
            ContractViolation: ``broken``, if it raises or does not return one mapping for each.
        """
        replies = one_for_each((policy or self.policy).prior, states, broken)
        for state, reply in zip(states, replies, strict=True):
            if not isinstance(reply, Mapping):
                raise broken(f"a prior is a {type(reply).__name__}; return a mapping", asked(state))
        return replies


@define(eq=False)
class Comparison:
    """Completions against those that the same requests had in other calls.

    Other ids may come of the rounding of batched kernels: they count against the share that may change.
    With the same ids all else must be the same.

    Attributes:
        bench: counts what is compared.
        broken: is raised for what differs.
        compared: how many completions were compared.
        changed: those that had other ids, in words.
    """

    bench: Bench
    broken: type[ContractViolation]
    compared: int = 0
    changed: list[tuple[str, str]] = field(factory=list)

    def add(
        self,
        requests: Sequence[GenerationRequest],
        found: Sequence[Sequence[Step]],
        expected: Sequence[Sequence[Step]],
        how: str,
    ) -> None:
        """Compare some completions.

        Raises:
            ContractViolation: ``broken``, if one has the same ids and differs in other things.
        """
        for request, mine, theirs in zip(requests, found, expected, strict=True):
            if ids_of(mine) != ids_of(theirs):
                what = f"{how}, a completion is {said(mine)}, and was {said(theirs)}"
                self.changed.append((what, asked(request)))
            elif difference := self._difference(mine, theirs):
                raise self.broken(f"{how}, {difference}", asked(request))
        self.compared += len(requests)

    def close(self) -> None:
        """Hold what was compared to the share that may change.

        Raises:
            ContractViolation: ``broken``, if more have other ids.
        """
        self.bench.compared += self.compared
        self.bench.changed += len(self.changed)
        most = self.bench.max_changed_share
        if len(self.changed) > most * self.compared:
            what, scenario = self.changed[0]
            share = f"{len(self.changed)} of {self.compared} completions changed; {most:.1%} may"
            raise self.broken(f"{what} ({share})", scenario)

    def _difference(self, mine: Sequence[Step], theirs: Sequence[Step]) -> str | None:
        """Return in what steps of the same ids differ."""
        for number, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            for name in ("text", "action_mask", "terminal", "truncated", "body_start"):
                if getattr(a, name) != getattr(b, name):
                    return (
                        f"{name} of step {number} is {getattr(a, name)!r}, and was {getattr(b, name)!r}"
                    )
            for x, y in zip(a.log_probs, b.log_probs, strict=True):
                if x == y or (math.isnan(x) and math.isnan(y)):
                    continue
                if not abs(x - y) <= self.bench.tolerance:
                    return f"a log-probability in step {number} is {x:.6g}, and was {y:.6g}"
                self.bench.largest_difference = max(self.bench.largest_difference, abs(x - y))
        return None


def one_for_each(
    method: Callable[[Sequence[Item]], list[Reply]],
    given: Sequence[Item],
    broken: type[ContractViolation],
) -> list[Reply]:
    """Call a method of a policy, and check that it returns a list of one thing for each that was given.

    Raises:
        ContractViolation: ``broken``, if it does not.
    """
    name, where = method.__name__, "\n".join(map(asked, given[:3]))
    try:
        replies = method(list(given))
    except Exception as error:
        raise broken(f"{name} raised {error!r} for {len(given)} at once", where) from error
    # A class may promise one thing and hold another.
    kind: Any = type(replies)
    if kind is not list:
        raise broken(f"{name} returned a {kind.__name__}; return a list, in order", where)
    if len(replies) != len(given):
        raise broken(f"{name} returned {len(replies)} replies for {len(given)} at once", where)
    return replies


def ids_of(steps: Sequence[Step]) -> list[tuple[str, tuple[int, ...]]]:
    """Return the functions and ids of a completion."""
    return [(step.function, step.ids) for step in steps]


def drawn(steps: Sequence[Step]) -> int:
    """Return how many ids of a completion the policy drew."""
    return sum(sum(step.action_mask) for step in steps)


def said(steps: Sequence[Step]) -> str:
    """Return a completion in few words."""
    parts = [
        f"{step.function} of {len(step.ids)} ids, {list(step.ids[:8])}"
        f"{' truncated' if step.truncated else ' terminal' if step.terminal else ''} {step.text!r:.40}"
        for step in steps[:4]
    ]
    return f"[{'; '.join(parts)}{'; ...' if len(steps) > 4 else ''}]"


def asked(item: GenerationRequest | State) -> str:
    """Return a request or a state in words."""
    state = item if isinstance(item, State) else item.state
    after = f", after {' '.join(step.function for step in state.steps)}" if state.steps else ""
    words = f"problem {state.problem.id!r}, {state.problem.question!r:.60}{after}"
    if isinstance(item, State):
        return words
    forced = "" if item.function is None else f", function {item.function!r}"
    forced += f", prefix {list(item.prefix)}" if item.prefix else ""
    limits = f"max_steps={item.max_steps}, max_tokens={item.max_tokens}, until={item.until!r}"
    return f"{words}: seed {item.seed}, {limits}{forced}"
