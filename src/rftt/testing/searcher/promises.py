"""The promises of a search strategy, each as the exception that says it is broken."""

from __future__ import annotations

from rftt.testing.promises import ContractViolation as ContractViolation
from rftt.testing.promises import wordings


class StructureBroken(ContractViolation):
    """There is one root, a parent's number is smaller than its child's, and a child is one step deeper.
    A strategy writes ``visits``, ``ended``, ``value_count``, ``value_sum``, ``exhausted`` and ``memo``,
    and leaves everything else on the tree as it is."""

    promise = "structure"


class RequestBroken(ContractViolation):
    """``ask`` returns a list or a tuple of ``Expansion``. What it asks for in one round can be sampled:
    no more than 100,000 completions, or as many as the budget has rollouts."""

    promise = "request"


class TimeBroken(ContractViolation):
    """Every call returns: ``ask``, ``tell`` and ``is_done`` take no longer than the limit, 10 seconds if
    no other is given."""

    promise = "time limit"


class GrammarBroken(ContractViolation):
    """A strategy asks for steps that the grammar allows, at nodes that can have children: on the tree,
    not terminal, above the depth limit."""

    promise = "grammar"


class VisitsBroken(ContractViolation):
    """A completion that was judged counts once at the node where it ended, and once at each node above.
    A completion that was not judged counts likewise, or not at all. So a node's visits are the
    completions that ended there plus the visits of its children."""

    promise = "visits"


class ValuesBroken(ContractViolation):
    """A node's ``value_count`` and ``value_sum`` are the number and the sum of the scores of the
    rollouts through it; an abstention counts in neither. So every mean lies in the range of the scores
    seen."""

    promise = "values"


class DiscountBroken(ContractViolation):
    """Where the strategy has an attribute ``discount``, a score is multiplied by it once for each step
    upwards."""

    promise = "discount"


class StarvationBroken(ContractViolation):
    """A strategy that chooses by rewards, and is not done, comes to every option in the end: to every
    child without a visit, and, where it chooses the functions itself, to every legal function without a
    child."""

    promise = "starvation"


class BudgetBroken(ContractViolation):
    """A tree grows by what the engine samples, and the engine alone counts what is spent. No limit on
    rollouts, nodes, tokens, policy calls or seconds is overspent."""

    promise = "budget"


class AnswerBroken(ContractViolation):
    """A search that is cut short still gives its best answer so far: after each round the best answer
    sampled is found on the tree, and the smallest budget buys one completion."""

    promise = "answer"


class SeedBroken(ContractViolation):
    """The same seed gives the same tree, in any process: nothing depends on ``hash``, and so on
    ``PYTHONHASHSEED``, or on the order of a set."""

    promise = "same seed"


class BatchBroken(ContractViolation):
    """A tree does not depend on what else is searched at the same time, nor on the order, nor on whether
    trees wait for one another (rounds) or not (``streaming``)."""

    promise = "batch"


class GoldBroken(ContractViolation):
    """A strategy reads neither the gold answer nor the metadata of a problem: with others, and the same
    verdicts, the tree is the same."""

    promise = "gold answer"


class StateBroken(ContractViolation):
    """A strategy holds settings, never state: on equal trees, with equal ``rng``, it asks for the same
    and writes the same, whatever it has searched before; on the class no more than on the instance."""

    promise = "hidden state"


class ResumeBroken(ContractViolation):
    """A search that is saved after any round, loaded and resumed ends as if it had never stopped.
    ``memo`` must be the same after JSON."""

    promise = "resume"


class ExhaustedBroken(ContractViolation):
    """What is exhausted stays exhausted, and nothing at or below an exhausted node is asked for. A node
    below the first is not closed while the strategy would yet try another function there."""

    promise = "exhausted"


class CommitmentBroken(ContractViolation):
    """A search that has committed to a step, and is resumed, goes on below that step:
    ``tree.start`` is where it begins."""

    promise = "commitment"


class ProgressBroken(ContractViolation):
    """As long as ``is_done`` is false, a strategy asks for something: ``is_done`` is the one way in
    which a search ends by itself."""

    promise = "progress"


class EndsBroken(ContractViolation):
    """A search of a finite problem ends by itself, however large its budget. One that plans with the
    budget's rollouts (``needs_rollout_limit``) ends with them, or where it would with a larger limit
    too. A search that has ended asks for nothing when it is resumed."""

    promise = "ends"


class RepliesBroken(ContractViolation):
    """A strategy copes with every reply that the interfaces allow: fewer completions than it asked for,
    equal and empty steps, completions of several steps, steps that are truncated or end a solution
    early, completions that the budget cut, verifiers that abstain, priors of next to nothing and of 0
    (minus infinity, being logarithms)."""

    promise = "any reply"


class BestLeafBroken(ContractViolation):
    """With enough budget, the best leaf of a finite problem is found. Checked on request."""

    promise = "best leaf"


PROMISES: dict[str, str] = wordings(__name__)
"""The wording of each promise, by name."""
