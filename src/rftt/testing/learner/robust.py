"""Promises on what is not ordinary: equal rewards, nothing to learn, numbers that are none, a resume."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Final

import attrs
import torch

from rftt.interfaces import Verdict
from rftt.search.strategies import BestOfN
from rftt.search.tree.tree import SearchTree
from rftt.testing.learner.measured import TABLE, Measured, difference, measure, parameters
from rftt.testing.learner.promises import (
    EqualRewardsBroken,
    ModulesBroken,
    NonFiniteBroken,
    NothingBroken,
    ResumeBroken,
)
from rftt.testing.learner.workbench import Workbench, copied

_NOTHING: Final = 1e-5
"""The share of an ordinary gradient that rounding may leave of one that is 0."""


def check_equal_rewards(bench: Workbench) -> None:
    """Check that equal rewards move nothing."""
    learner, model = bench.learner(), bench.model()
    ordinary = float(
        measure(learner, model, bench.batch(learner, model, bench.trees())).table.abs().max()
    )
    alone = bench.search("single", BestOfN(), 1, 1)
    cases = {
        "all right": bench.equal_trees(1.0), "all wrong": bench.equal_trees(0.0), "but one": alone
    }  # fmt: skip
    for name, trees in cases.items():
        found = measure(learner, model, bench.batch(learner, model, trees))
        if not found.is_finite:
            raise EqualRewardsBroken(
                f"rollouts that are {name} give a loss, metrics or a gradient that are not finite: loss "
                f"{found.loss}, metrics {dict(found.metrics)}"
            )
        left = _largest(found)
        if left > _NOTHING * ordinary:
            raise EqualRewardsBroken(
                f"rollouts that are {name} give a gradient with an entry of {left:.3g}; rewards that "
                f"differ give one of {ordinary:.3g}"
            )
    mixed = bench.trees()[:2] + bench.equal_trees(1.0)[2:4] + bench.equal_trees(0.0)[4:] + alone
    if not (found := measure(learner, model, bench.batch(learner, model, mixed))).is_finite:
        raise EqualRewardsBroken(
            "groups of equal rewards among others give a loss, metrics or a gradient that are not "
            f"finite: loss {found.loss}, metrics {dict(found.metrics)}"
        )


def _largest(found: Measured) -> float:
    """Return the largest entry of the gradient of the model's table."""
    return float(found.table.abs().max())


def check_nothing(bench: Workbench) -> None:
    """Check that nothing to learn is no error."""
    learner, model = bench.learner(), bench.model()
    cases: dict[str, list[SearchTree]] = {
        "no tree": [],
        "a tree without a node": [SearchTree(bench.trees()[0].problem, bench.policy.grammar)],
    }
    verdicts = {"no end is judged": None, "the verifier abstained": Verdict(None, reason="timed out")}
    for name, verdict in verdicts.items():
        cases[name] = copied(bench.trees())
        for tree in cases[name]:
            for end in tree.ends():
                tree.verdict[end] = verdict
    for name, trees in cases.items():
        try:
            batch = bench.batch(learner, model, trees)
            found = measure(learner, model, batch)
        except Exception as error:
            raise NothingBroken(f"{name}: {type(error).__name__}: {error}") from error
        if (batch.weights * batch.action_mask).any():
            raise NothingBroken(f"{name}, but the experience has actions to learn from")
        if not found.is_finite or any(gradient.any() for gradient in found.gradients.values()):
            raise NothingBroken(f"{name}, but the loss is {found.loss} and there is a gradient")


def check_non_finite(bench: Workbench) -> None:
    """Check that no number which is none reaches a gradient."""
    for number in (math.nan, math.inf, -math.inf):
        for name, spoil in _SPOILS.items():
            trees = copied(bench.trees())
            tree = trees[1]
            end = next(end for end in tree.ends() if tree.verdict[end] is not None)
            spoil(tree, end, number)
            learner, model = bench.learner(), bench.model()
            try:
                found = measure(learner, model, bench.batch(learner, model, trees))
            except Exception as error:
                if tree.problem.id in str(error):
                    continue
                raise NonFiniteBroken(
                    f"{name} of {number} in the tree {tree.problem.id!r} is refused without its name: "
                    f"{type(error).__name__}: {error}"
                ) from error
            if not found.is_finite:
                raise NonFiniteBroken(
                    f"{name} of {number} in the tree {tree.problem.id!r} gives the loss {found.loss}, "
                    "and a gradient or metrics that are not finite"
                )


def _spoil_score(tree: SearchTree, end: int, number: float) -> None:
    verdict = tree.verdict[end]
    assert verdict is not None
    spoiled = attrs.evolve(verdict)
    # A verdict refuses it; a verifier in another process, or a file, may not.
    object.__setattr__(spoiled, "score", number)
    tree.verdict[end] = spoiled


def _spoil_log_prob(tree: SearchTree, end: int, number: float) -> None:
    step = tree.step[end]
    assert step is not None
    place = step.action_mask.index(True)
    log_probs = (*step.log_probs[:place], number, *step.log_probs[place + 1 :])
    tree.step[end] = attrs.evolve(step, log_probs=log_probs)


_SPOILS: Final[dict[str, Callable[[SearchTree, int, float], None]]] = {
    "a score": _spoil_score,
    "a log-probability": _spoil_log_prob,
}


def check_state(bench: Workbench) -> None:
    """Check that a learner goes on from a file."""
    model, trees = bench.model(off_policy=True), bench.trees()
    first = bench.learner(off_policy=True)
    batch = bench.batch(first, model, trees)
    trained = parameters(first, model)
    measured = measure(first, model, batch)
    with torch.no_grad():
        for name, parameter in trained.items():
            if name != TABLE:
                # Far enough from where a new one begins.
                parameter.add_(0.1)
    for _ in range(3):
        # As the tuner calls it.
        first.after_update({**measured.metrics, "rollouts": batch.totals.sequences})
    file = io.BytesIO()
    modules = {name: module.state_dict() for name, module in first.modules.items()}
    torch.save({"learner": first.state_dict(), "modules": modules}, file)
    file.seek(0)
    try:
        saved = torch.load(file, weights_only=True)
    except Exception as error:
        raise ResumeBroken(f"its state holds more than numbers, texts and tensors: {error}") from error
    second = bench.learner(off_policy=True)
    second.load_state_dict(saved["learner"])
    for name, module in second.modules.items():
        module.load_state_dict(saved["modules"][name])
    results = []
    for learner in (first, second):
        batch = bench.batch(learner, model, trees)
        results.append(measure(learner, model, batch))
    if what := difference(results[1], results[0], with_metrics=True):
        raise ResumeBroken(f"after it was resumed, {what}")


def check_modules(bench: Workbench) -> None:
    """Check that a learner's modules can be trained."""
    learner, model = bench.learner(off_policy=True), bench.model(off_policy=True)
    modules = learner.modules
    if any(learner.modules[name] is not module for name, module in modules.items()):
        raise ModulesBroken("modules makes new objects each time: what is trained is lost")
    if unknown := sorted(learner.learning_rates.keys() - modules.keys()):
        raise ModulesBroken(
            f"learning_rates has {unknown[0]!r}, which is no module; there are {[*modules]}"
        )
    batch = bench.batch(learner, model, bench.trees())
    found = measure(learner, model, batch)
    for name, parameter in parameters(learner, model).items():
        if name == TABLE or not parameter.requires_grad:
            continue
        if parameter.grad is None:
            raise ModulesBroken(f"{name} gets no gradient from the loss")
        if not found.gradients[name].isfinite().all():
            raise ModulesBroken(f"the gradient of {name} is not finite")
