"""What a search may spend, and the settings that every search shares."""

from __future__ import annotations

from attrs import field, frozen, validators

_AT_LEAST_ONE = validators.optional(validators.ge(1))


@frozen
class Budget:
    """Limits for each tree; ``None`` is no limit. None is ever overspent, except ``seconds``, after
    which no new round begins.

    Attributes:
        rollouts: completions asked of the policy, each one step or on to the end of a solution.
        nodes: steps on the tree, the root not counted.
        tokens: sampled token ids; forced ids do not count.
        policy_calls: batched calls of ``Policy.extend`` in which the tree takes part.
        seconds: wall time of the run.
    """

    rollouts: int | None = field(default=None, validator=_AT_LEAST_ONE)
    nodes: int | None = field(default=None, validator=_AT_LEAST_ONE)
    tokens: int | None = field(default=None, validator=_AT_LEAST_ONE)
    policy_calls: int | None = field(default=None, validator=_AT_LEAST_ONE)
    seconds: float | None = field(default=None, validator=validators.optional(validators.gt(0)))


@frozen
class SearchConfig:
    """The settings of a search, whatever its strategy.

    Attributes:
        budget: what each tree may spend.
        seed: with a problem's id and the policy it determines the tree, whatever else is searched.
        max_depth: most steps from the question to the end of a solution.
        max_tokens: most sampled ids in one completion.
        max_concurrent_trees: trees that grow side by side; other problems wait for one to finish.
            ``None`` is all.
        streaming: whether a tree begins its next round as soon as its own completions are there,
            instead of waiting for those of all trees. The trees are the same.
    """

    budget: Budget
    seed: int = 0
    max_depth: int = field(default=18, validator=validators.ge(1))
    max_tokens: int = field(default=512, validator=validators.ge(1))
    max_concurrent_trees: int | None = field(default=None, validator=_AT_LEAST_ONE)
    streaming: bool = False
