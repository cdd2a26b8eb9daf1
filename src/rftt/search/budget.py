"""What a search may spend."""

from __future__ import annotations

import time

from attrs import field, frozen, validators

from rftt.search.tree import SearchTree

_AT_LEAST_ONE = validators.optional(validators.ge(1))


@frozen
class Budget:
    """Limits for each tree; ``None`` is no limit. None of them is ever overspent, except
    ``seconds``, after which no new round begins.

    Attributes:
        rollouts: samples asked of the policy, each one step or on to an answer.
        nodes: steps on the tree, the root not counted.
        tokens: sampled token ids.
        policy_calls: batched calls of ``Policy.extend`` in which the tree takes part: its rounds.
        seconds: wall time of the whole run.
    """

    rollouts: int | None = field(default=None, validator=_AT_LEAST_ONE)
    nodes: int | None = field(default=None, validator=_AT_LEAST_ONE)
    tokens: int | None = field(default=None, validator=_AT_LEAST_ONE)
    policy_calls: int | None = field(default=None, validator=_AT_LEAST_ONE)
    seconds: float | None = field(default=None, validator=validators.optional(validators.gt(0)))

    def deadline(self) -> float:
        """The ``time.monotonic()`` after which no round begins."""
        return float("inf") if self.seconds is None else time.monotonic() + self.seconds

    def is_spent(self, tree: SearchTree) -> bool:
        """Whether this tree may ask for nothing more."""
        return self.samples_left(tree, 1) == 0

    def samples_left(self, tree: SearchTree, wanted: int) -> int:
        """How many of ``wanted`` samples this tree may still have in one round: each needs a rollout,
        a node and a token at the least."""
        if self.policy_calls is not None and tree.rounds >= self.policy_calls:
            return 0
        if self.rollouts is not None:
            wanted = min(wanted, self.rollouts - tree.samples)
        if self.nodes is not None:
            wanted = min(wanted, self.nodes - len(tree) + 1)
        if self.tokens is not None:
            wanted = min(wanted, self.tokens - tree.tokens)
        return wanted

    def steps_each(self, tree: SearchTree, samples: int, at_most: int) -> int:
        """How many steps each of ``samples`` may take."""
        return at_most if self.nodes is None else min(at_most, (self.nodes - len(tree) + 1) // samples)

    def tokens_each(self, tree: SearchTree, samples: int, at_most: int) -> int:
        """How many tokens each of ``samples`` may take."""
        return at_most if self.tokens is None else min(at_most, (self.tokens - tree.tokens) // samples)
