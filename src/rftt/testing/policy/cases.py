"""What a policy is asked for: problems, states that it reached itself, and requests of every kind."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Final

from attrs import evolve

from rftt.interfaces import GenerationRequest, State, Step
from rftt.problems.problem import Problem
from rftt.testing.policy.bench import Bench
from rftt.testing.policy.promises import RepliesBroken
from rftt.tokens.control import control_ids

PROBLEMS: Final = (
    Problem("sum", "12+34", "46"),
    Problem("product", "7*3+5", "26"),
    Problem("difference", "50-2*3", "44"),
)
_TRIES: Final = 8
"""Steps that are sampled of a state, to find one that does not end a solution."""
_DEEPER: Final = 2
"""How many steps the deepest state has."""
_LIMITS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"until": "step"},
    {"max_steps": 1},
    {"max_steps": 2},
    {"max_tokens": 1},
    {"max_tokens": 2},
    {"max_tokens": 5, "until": "step"},
)


def with_twin(problems: Sequence[Problem]) -> list[Problem]:
    """Return copies of the problems and one more, which has the id of the first and another question."""
    first, *others = problems = copy.deepcopy(list(problems))
    question = others[0].question if others else f"{first.question} {first.question}"
    return [*problems, evolve(first, question=question)]


def gather(bench: Bench) -> None:
    """Note the states and requests that all else is tried on, and the completions of one call.

    Raises:
        RepliesBroken: if the policy does not answer them.
    """
    bench.states = roots = [State(problem) for problem in bench.problems]
    for _ in range(_DEEPER):
        roots = _reached(bench, roots)
        bench.states = bench.states + roots
    requests = _requests(bench)
    bench.requests = requests + _prefixed(bench, requests)
    bench.completions = bench.extend(bench.requests, RepliesBroken)
    _draw_steps(bench)


def forbidden_in_body(bench: Bench) -> frozenset[int]:
    """Return the ids that a body must not hold: those that open or close a step by the policy's
    automaton, and those that its tokenizer calls special."""
    found: set[int] = set()
    if (automaton := getattr(bench.policy, "automaton", None)) is not None:
        like_bodies = automaton.body_following
        for state, allowed in enumerate(automaton.allowed.tolist()):
            if state in automaton.choices.values():
                continue
            stays = {state} if like_bodies is None else {state, int(like_bodies[state])}
            columns = zip(
                automaton.special_ids.tolist(), automaton.closing.tolist(), allowed,
                automaton.following[state].tolist(), strict=True,
            )  # fmt: skip
            moves = {i for i, closes, may, after in columns if closes or (may and after not in stays)}
            found.update(moves)
    if (tokenizer := getattr(bench.policy, "tokenizer", None)) is not None:
        found.update(control_ids(tokenizer))
    return frozenset(found)


def body(step: Step) -> tuple[int, ...]:
    """Return the ids of a step's body, with the id that ended it where that is an id."""
    return step.ids[step.body_start :]


def _reached(bench: Bench, states: Sequence[State]) -> list[State]:
    """Return states one step further, one for each state where a step is found that ends nothing."""
    requests = [
        GenerationRequest(state, bench.seed(), until="step", max_tokens=bench.max_tokens)
        for state in states
        for _ in range(_TRIES)
    ]
    found: dict[State, State] = {}
    # The problems' metadata cannot be hashed, but does not count.
    for request, (step, *_) in zip(requests, bench.extend(requests, RepliesBroken), strict=True):
        # What follows an end or an illegal function says nothing more.
        followers = bench.policy.grammar.followers.get(step.function, ())
        if not step.terminal and followers:
            state = request.state
            found.setdefault(state, State(state.problem, (*state.steps, step)))
    return list(found.values())


def _requests(bench: Bench) -> list[GenerationRequest]:
    requests = []
    priors = bench.prior(bench.states, RepliesBroken)
    for number, (state, prior) in enumerate(zip(bench.states, priors, strict=True)):
        legal = sorted(prior.keys() & bench.policy.grammar.legal(state.last))
        forced = bench.random.sample(legal, min(2, len(legal)))
        for function in (None, *forced):
            for limits in _LIMITS if number % 2 == 0 or function is None else _LIMITS[:2]:
                request = GenerationRequest(
                    state, bench.seed(), function=function, max_tokens=bench.max_tokens
                )
                requests.append(evolve(request, **limits))
    return requests


def _prefixed(bench: Bench, asked: Sequence[GenerationRequest]) -> list[GenerationRequest]:
    """Return requests for bodies that begin as some did."""
    control = forbidden_in_body(bench)
    requests: list[GenerationRequest] = []
    for request, (step, *_) in zip(asked, bench.extend(asked, RepliesBroken), strict=True):
        ids = body(step)
        if not step.truncated and len(ids) > 1:
            ids = ids[:-1]
        prefix = ids[: bench.random.randint(1, 3)]
        if request.until == "step" and prefix and control.isdisjoint(prefix):
            forced = evolve(request, seed=bench.seed(), function=step.function, prefix=prefix)
            requests += [forced, evolve(forced, seed=bench.seed(), until="solution")]
    return requests


def _draw_steps(bench: Bench) -> None:
    """Note many draws of the first ids of a step: of a question and of a deeper state, with a function
    that the policy chooses and with one that is forced."""
    for state in dict.fromkeys([0, len(bench.states) - 1]):
        (prior,) = bench.prior([bench.states[state]], RepliesBroken)
        legal = prior.keys() & bench.policy.grammar.legal(bench.states[state].last)
        likeliest = max(sorted(legal), key=lambda name: prior[name], default=None)
        for function in dict.fromkeys([None, likeliest]):
            requests = [
                GenerationRequest(
                    bench.states[state], bench.seed(), function=function, until="step", max_tokens=3
                )
                for _ in range(bench.draws)
            ]
            completions = bench.extend(requests, RepliesBroken)
            bench.sampled.append((bench.states[state], function, completions))
