"""The promises of a search strategy, each as the exception that says it is broken."""

from __future__ import annotations

from typing import ClassVar


class ContractViolation(AssertionError):  # noqa: N818
    """A strategy broke a promise. Each promise is a class of its own, and its docstring the wording.

    Attributes:
        promise: its name, with which the message begins.
        what: what was found.
        scenario: what led to it: the rounds so far, and the tree; filled in by who knows them.
    """

    promise: ClassVar[str]

    def __init__(self, what: str, scenario: str = "") -> None:
        super().__init__(what, scenario)
        self.what = what
        self.scenario = scenario

    def __str__(self) -> str:
        wording = " ".join((type(self).__doc__ or "").split())
        parts = (f"{self.promise}: {self.what}", f"The promise: {wording}", self.scenario)
        return "\n\n".join(part for part in parts if part)


class StructureBroken(ContractViolation):
    """There is one root, a parent's number is smaller than its child's, a child is one step deeper, and
    what is on the tree stays as it is: a strategy writes ``visits``, ``ended``, ``judged``, ``total``,
    ``closed`` and ``memo``, nothing else."""

    promise = "structure"


class GrammarBroken(ContractViolation):
    """A strategy asks for steps that the grammar allows, below nodes that can have children: on the
    tree, not terminal, above the depth limit."""

    promise = "grammar"


class VisitsBroken(ContractViolation):
    """Every rollout that reached an end counts once, where it ended, and once at each node above; a
    sample of one step that did not may count once or not at all. So a node's visits are those that ended
    there plus its children's, and the root's are the completed rollouts."""

    promise = "visits"


class ValuesBroken(ContractViolation):
    """A node's ``judged`` and ``total`` are the number and the sum of the scores of the rollouts through
    it; abstentions count in neither. So every mean lies in the range of the scores seen."""

    promise = "values"


class DiscountBroken(ContractViolation):
    """Where the strategy has a ``discount``, a score counts times that, once for each step upwards."""

    promise = "discount"


class StarvationBroken(ContractViolation):
    """A strategy that lets rewards decide where to go, and goes on, comes to every option in the end:
    to every child without a visit, and to every legal function without a child where it is the strategy
    that chooses functions."""

    promise = "starvation"


class BudgetBroken(ContractViolation):
    """A tree grows by what the engine grants and its spending is counted by the engine alone: rollouts,
    nodes, tokens, policy calls and seconds are never overspent."""

    promise = "budget"


class AnswerBroken(ContractViolation):
    """A search that is cut short still gives its best answer so far: after each round the best answer
    sampled is found on the tree, and the smallest budget buys a sample."""

    promise = "answer"


class SeedBroken(ContractViolation):
    """The same seed gives the same tree."""

    promise = "same seed"


class BatchBroken(ContractViolation):
    """A tree does not change with what else is searched at the same time, in any order."""

    promise = "batch"


class StateBroken(ContractViolation):
    """A strategy holds settings, never state: on equal trees, with equal ``rng``, it asks for the same
    and writes the same."""

    promise = "hidden state"


class ResumeBroken(ContractViolation):
    """Saved after any round and loaded again, a search ends as if never stopped; ``memo`` must be the
    same after JSON."""

    promise = "resume"


class FinishedBroken(ContractViolation):
    """What is closed stays closed, and nothing at or below a closed node is asked for."""

    promise = "finished"


class CommitmentBroken(ContractViolation):
    """A search that has committed to a step, and is taken up again, goes on below that step:
    ``tree.start`` is where it begins."""

    promise = "commitment"


class EndsBroken(ContractViolation):
    """A search of a finite problem ends by itself, however large its budget, and a search that has ended
    asks for nothing when it is taken up again."""

    promise = "ends"


class RepliesBroken(ContractViolation):
    """A strategy copes with every reply that the interfaces allow: fewer samples than it asked for,
    equal and empty steps, chains of several steps, steps that were cut or ended early, abstaining
    verifiers."""

    promise = "any reply"


class BestLeafBroken(ContractViolation):
    """With budget enough, the best leaf of a finite problem is found. Demanded on request."""

    promise = "best leaf"


PROMISES: dict[str, str] = {
    broken.promise: " ".join((broken.__doc__ or "").split())
    for broken in ContractViolation.__subclasses__()
}
"""The wording of each promise, by name."""
