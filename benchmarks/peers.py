"""Drive the searches of its_hub and treequest with a policy of ours."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import define, evolve, field
from its_hub.api import AbstractLanguageModel, AbstractProcessRewardModel
from its_hub.core.lms.step_generation import StepGeneration

from rftt import GenerationRequest, Policy, Problem, State, Verdict, Verifier
from rftt.search.seeding import seed_from

MAX_DEPTH: Final = 18
STEP_TOKENS: Final = 96
SOLUTION_TOKENS: Final = 320
MOST_CALLS: Final = 200
"""Calls of treequest's ``generate_fn`` for a problem: several times what the tokens buy."""


@define
class Tally:
    """What was sampled, by problem: the number of tokens, and the verdicts on finished solutions."""

    tokens: Counter[str] = field(factory=Counter)
    finished: defaultdict[str, list[Verdict]] = field(factory=lambda: defaultdict(list))


Run = Callable[[Sequence[Problem], int, int], Tally]
"""``run(problems, seed, tokens)``: search with about so many tokens a problem."""


@define
class Sampling:
    """Samples for a peer, and counts what it samples.

    Attributes:
        policy: samples.
        scorer: scores all paths, finished or not, in [0, 1].
        seed: of the search.
        tally: what was sampled so far.
    """

    policy: Policy
    scorer: Verifier
    seed: int
    tally: Tally = field(factory=Tally)
    _calls: Counter[str] = field(factory=Counter)

    def sample(self, requests: Sequence[GenerationRequest]) -> list[tuple[State, float]]:
        """Complete the states of some requests, each with a seed of its own, in one batch; return where
        each completion ends, and the score there."""
        seeded = []
        for request in requests:
            problem = request.state.problem.id
            self._calls[problem] += 1
            seed = seed_from(f"{self.seed}/{problem}/{self._calls[problem]}")
            seeded.append(evolve(request, seed=seed))
        ends = []
        for request, steps in zip(seeded, self.policy.extend(seeded), strict=True):
            ends.append(State(request.state.problem, (*request.state.steps, *steps)))
            self.tally.tokens[request.state.problem.id] += sum(sum(s.action_mask) for s in steps)
        verdicts = self.scorer.judge(ends)
        for state, verdict in zip(ends, verdicts, strict=True):
            if state.steps[-1].terminal and not state.steps[-1].truncated:
                self.tally.finished[state.problem.id].append(verdict)
        return [(state, verdict.score or 0.0) for state, verdict in zip(ends, verdicts, strict=True)]


def has_ended(state: State) -> bool:
    """Whether nothing can follow."""
    return bool(state.steps) and (state.steps[-1].terminal or len(state.steps) >= MAX_DEPTH)


def next_step(state: State) -> GenerationRequest:
    """Ask for one more step."""
    return GenerationRequest(state, 0, until="step", max_steps=1, max_tokens=STEP_TOKENS)


# -- its_hub --------------------------------------------------------------------------------------


class Paths(AbstractLanguageModel, AbstractProcessRewardModel):  # type: ignore[misc]
    """A language model and a process reward model for its_hub, which knows a path by its text.

    Requests wait until all problems that are still searched have asked; all are then sampled in one
    batch. The prompt is a problem's id.
    """

    end: Final = "<|end|>"

    def __init__(self, sampling: Sampling, problems: Sequence[Problem]) -> None:
        self.sampling = sampling
        self.searching = len(problems)
        self._paths = {(problem.id, ""): (State(problem), 0.0) for problem in problems}
        self._waiting: list[tuple[list[State], asyncio.Future[list[tuple[State, float]]]]] = []

    async def agenerate(self, messages: Any, *_: Any, **__: Any) -> Any:
        places = [(m[0].content, m[1].content if len(m) > 1 else "") for m in messages]
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(([self._paths[place][0] for place in places], future))
        self.sample_if_all_wait()
        replies = []
        for (problem, text), (state, score) in zip(places, await future, strict=True):
            step = state.steps[-1]
            added = f"<{step.function}>{step.text}</{step.function}>"
            # Equal texts of other ids are one path to its_hub; the first stands for them.
            self._paths.setdefault((problem, text + added), (state, score))
            replies.append({"content": added + self.end * has_ended(state)})
        return replies

    def sample_if_all_wait(self) -> None:
        """Sample, if no problem is left that has not asked."""
        if not self._waiting or len(self._waiting) < self.searching:
            return
        waiting, self._waiting = self._waiting, []
        requests = [next_step(state) for states, _ in waiting for state in states]
        found = iter(self.sampling.sample(requests))
        for states, future in waiting:
            future.set_result([next(found) for _ in states])

    def score(self, prompt_or_messages: Any, steps: Any) -> list[float]:
        return [self._paths[prompt_or_messages, text][1] for text in steps]

    async def ascore(self, prompt_or_messages: Any, steps: Any) -> list[float]:
        return self.score(prompt_or_messages, steps)


def its_hub(
    policy: Policy, scorer: Verifier, make: Callable[[StepGeneration, Paths], Any], budget: int
) -> Run:
    """Drive an algorithm of its_hub with a budget of its own kind, to its end."""

    async def search(problems: Sequence[Problem], seed: int) -> Tally:
        paths = Paths(Sampling(policy, scorer, seed), problems)
        steps = StepGeneration(
            MAX_DEPTH, step_token="", stop_token=Paths.end, include_stop_str_in_output=True
        )
        algorithm = make(steps, paths)

        async def one(problem: Problem) -> None:
            await algorithm.ainfer(paths, problem.id, budget)
            paths.searching -= 1
            paths.sample_if_all_wait()

        await asyncio.gather(*map(one, problems))
        return paths.sampling.tally

    return lambda problems, seed, tokens: asyncio.run(search(problems, seed))


# -- treequest ------------------------------------------------------------------------------------


def another_answer(policy: Policy, state: State) -> GenerationRequest | None:
    """Ask for a solution; below one that is there, for a check of what came before its answer, and from
    there on a new answer. ``None`` if the grammar or the depth has no room for that."""
    steps = state.steps[:-1]
    while steps and "verify" not in policy.grammar.legal(steps[-1].function):
        steps = steps[:-1]
    if state.steps and (not steps or len(steps) + 2 > MAX_DEPTH):
        return None
    return GenerationRequest(
        State(state.problem, steps), 0, function="verify" if steps else None,
        max_steps=MAX_DEPTH - len(steps), max_tokens=SOLUTION_TOKENS,
    )  # fmt: skip


def treequest(policy: Policy, scorer: Verifier, algorithm: Any) -> Run:
    """Drive an algorithm of treequest until the tokens are spent, all problems in one batch.

    A node is a whole solution, and :func:`another_answer` its child. Where nothing can be sampled below
    a node, the node itself is given once more, which costs no tokens.
    """

    def search(problems: Sequence[Problem], seed: int, tokens: int) -> Tally:
        sampling = Sampling(policy, scorer, seed)
        trees = {problem.id: algorithm.init_tree() for problem in problems}
        live = list(problems)
        for _ in range(MOST_CALLS):
            trials = {p.id: algorithm.ask(trees[p.id], ["answer"])[1] for p in live}
            parents = {p.id: trials[p.id].parent_state or (State(p), 0.0) for p in live}
            requests = {name: another_answer(policy, state) for name, (state, _) in parents.items()}
            asked = {name: request for name, request in requests.items() if request is not None}
            found = parents | dict(zip(asked, sampling.sample(list(asked.values())), strict=True))
            for name, (state, score) in found.items():
                algorithm.tell(trees[name], trials[name].trial_id, ((state, score), score))
            live = [problem for problem in live if sampling.tally.tokens[problem.id] < tokens]
            if not live:
                break
        return sampling.tally

    return search
