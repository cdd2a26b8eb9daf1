"""Policies that count what they are asked for, or finish it in another order."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from rftt.interfaces import GenerationRequest, Policy, State, Step, StepStream


class MeteredPolicy(Policy):
    """Count what each problem is given, whatever its tree says.

    Args:
        policy: samples.
        pause: seconds that each call takes at least.
    """

    def __init__(self, policy: Policy, pause: float = 0.0) -> None:
        self.grammar, self.policy, self.pause = policy.grammar, policy, pause
        self.spent: dict[str, Counter[str]] = {}

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        return self.policy.prior(states)

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        time.sleep(self.pause)
        completions = self.policy.extend(requests)
        for problem in {request.state.problem.id for request in requests}:
            self.spent.setdefault(problem, Counter())["policy_calls"] += 1
        for request, steps in zip(requests, completions, strict=True):
            tokens = sum(sum(step.action_mask) for step in steps)
            spent = Counter(rollouts=1, nodes=len(steps), tokens=tokens)
            self.spent[request.state.problem.id].update(spent)
        return completions


class _OneByOne(StepStream):
    """Finish the request that came last first, and one at a time."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._added: list[tuple[int, GenerationRequest]] = []

    def add(self, key: int, request: GenerationRequest) -> None:
        self._added.append((key, request))

    def collect(self) -> Sequence[tuple[int, Sequence[Step]]]:
        if not self._added:
            return []
        key, request = self._added.pop()
        return [(key, self._policy.extend([request])[0])]


class UnevenPolicy(MeteredPolicy):
    """Finish requests one by one, so that some trees are ahead of others where they may be."""

    def stream(self) -> StepStream:
        return _OneByOne(self)
