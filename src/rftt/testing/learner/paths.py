"""Promises on what is made of trees: sequences, masks, ratios, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from attrs import frozen
from torch import Tensor

from rftt.interfaces import Step, Verdict
from rftt.learners.experience import Experience
from rftt.search.tree.tree import SearchTree
from rftt.testing import copies
from rftt.testing.finite.model import FiniteModel
from rftt.testing.learner.measured import (
    change,
    difference,
    experience_difference,
    measure,
)
from rftt.testing.learner.promises import (
    LearnsBroken,
    MaskBroken,
    NoFailureBroken,
    RatioBroken,
    RepeatBroken,
    SequenceBroken,
)
from rftt.testing.learner.workbench import Longer, Workbench, copied

_ON_POLICY = {"ratio": 1.0, "clip_fraction": 0.0, "old_kl": 0.0, "approx_kl": 0.0}
"""Metrics by names in use, and what they are where every ratio is 1."""
_SAME = 1e-5
"""Log-probabilities in single precision differ by a tenth of this."""


def check_learns(bench: Workbench) -> None:
    """Check that an ordinary batch gives a gradient."""
    for off_policy in (False, True):
        learner, model = bench.learner(off_policy=off_policy), bench.model(off_policy=off_policy)
        found = measure(learner, model, bench.batch(learner, model, bench.trees()))
        if not found.is_finite:
            raise LearnsBroken(
                f"loss {found.loss}, metrics {dict(found.metrics)}, or the gradient is not finite"
            )
        if not any(gradient.any() for gradient in found.gradients.values()):
            raise LearnsBroken("the gradient is 0")


def check_repeatable(bench: Workbench) -> None:
    """Check that nothing is written to and nothing is left to chance."""
    learner, model = bench.learner(off_policy=True), bench.model(off_policy=True)
    trees = bench.trees()
    as_they_were = copied(trees)
    first, second = (bench.batch(learner, model, trees) for _ in range(2))
    for tree, before in zip(trees, as_they_were, strict=True):
        if what := copies.difference(before, tree):
            raise RepeatBroken(f"experience wrote to the tree {tree.problem.id!r}: {what}")
    if what := experience_difference(second, first):
        raise RepeatBroken(f"the experience of the same trees is another the second time: {what}")
    held = change(first, lambda _, values: values.clone())
    once, twice = (measure(learner, model, first) for _ in range(2))
    if what := difference(twice, once, with_metrics=True):
        raise RepeatBroken(f"with the same model and batch again, {what}")
    if model.training:
        raise RepeatBroken("the model is in train mode after a loss; it was in eval mode")
    if what := experience_difference(first, held):
        raise RepeatBroken(f"loss wrote to its batch: {what}")


def check_sequences(bench: Workbench) -> None:
    """Check that sequences are paths as they were sampled."""
    trees = bench.trees()
    batch = bench.learner().experience(trees)
    sampled = _sampled(bench, trees)
    for row in range(len(batch)):
        held = batch.attention_mask[row]
        ids = tuple(batch.ids[row, held].tolist())
        if ids not in sampled:
            raise SequenceBroken(f"sequence {row} has the ids {ids}, which are no path of a tree")
        actions, log_probs = batch.action_mask[row, held], batch.log_probs[row, held]
        # One path may have been sampled in two trees, and partly forced in one of them.
        allowing = [path for path in sampled[ids] if not (actions & ~path.drawn).any()]
        if not allowing:
            drawn = torch.stack([path.drawn for path in sampled[ids]]).any(0)
            place = int((actions & ~drawn).int().argmax())
            raise SequenceBroken(
                f"sequence {row}: the id at place {place} of {ids} is an action, but the policy did not "
                "draw it"
            )
        off = torch.stack([(log_probs - path.log_probs).abs() * actions for path in allowing])
        nearest = int(off.max(1).values.argmin())
        if not float(off[nearest].max()) <= _SAME:
            place = int(off[nearest].argmax())
            raise SequenceBroken(
                f"sequence {row}: log_probs at place {place} of {ids} is {log_probs[place]:.6g}; the id "
                f"was drawn with {allowing[nearest].log_probs[place]:.6g}"
            )


@frozen(eq=False)
class _Path:
    """For each id of a path, whether it was drawn, and with what log-probability."""

    drawn: Tensor
    log_probs: Tensor


def _sampled(bench: Workbench, trees: Sequence[SearchTree]) -> dict[tuple[int, ...], list[_Path]]:
    """Return what was sampled, by the ids from the question on."""
    found: dict[tuple[int, ...], list[_Path]] = {}
    for tree in trees:
        for node in range(1, len(tree)):
            state = tree.state(node)
            ids = bench.policy.context(state)
            drawn = [is_drawn for step in state.steps for is_drawn in step.action_mask]
            log_probs = [log_prob for step in state.steps for log_prob in step.log_probs]
            question = len(ids) - len(drawn)
            path = _Path(
                torch.tensor([False] * question + drawn), torch.tensor([0.0] * question + log_probs)
            )
            found.setdefault(ids, []).append(path)
    return found


def check_masks(bench: Workbench) -> None:
    """Check that what was not drawn has no influence."""
    learner, model = bench.learner(off_policy=True), bench.model(off_policy=True)
    trees = bench.trees()
    batch = bench.batch(learner, model, trees)
    for name in ("log_probs", "reference_log_probs", "advantages", "weights"):
        values: Tensor = getattr(batch, name)
        if values[~batch.action_mask].any():
            raise MaskBroken(f"{name} of the experience is not 0 where there is no action")
    expected = measure(learner, model, batch)
    drawn_at = _drawn_at(bench, model, trees)
    moved = expected.table.abs().sum(1) > 0
    if (moved & ~drawn_at).any():
        row = int((moved & ~drawn_at).nonzero()[0])
        raise MaskBroken(
            f"after the ids {model.prefixes[row]} the policy drew nothing, but the model gets a gradient"
        )
    longer = bench.learner(Longer(bench.policy, 5), off_policy=True)
    found = measure(longer, model, bench.batch(longer, model, trees))
    if what := difference(found, expected, with_metrics=True):
        raise MaskBroken(f"with five more ids in each question, {what}")
    edited = copied(trees)
    for tree in edited:
        for node in range(1, len(tree)):
            step = tree.step[node]
            assert step is not None
            log_probs = (p if d else -9.0 for p, d in zip(step.log_probs, step.action_mask, strict=True))
            tree.step[node] = attrs.evolve(step, log_probs=log_probs)
    found = measure(learner, model, bench.batch(learner, model, edited))
    if what := difference(found, expected, with_metrics=True):
        raise MaskBroken(f"with the log-probability -9 at ids that were not drawn, {what}")


def check_ratio(bench: Workbench) -> None:
    """Check that the ratio is 1 while the model is the policy."""
    # The reference is another model, so that its log-probabilities do not pass for the policy's.
    learner, model = bench.learner(off_policy=True), bench.model()
    batch = bench.batch(learner, model, bench.trees())
    true = _log_probs(bench, model, batch)
    off = (batch.log_probs - true).abs() * batch.action_mask
    if not float(off.max()) <= _SAME:
        row, place = divmod(int(off.argmax()), off.shape[1])
        raise RatioBroken(
            f"sequence {row}, place {place}: the old log-probability is "
            f"{batch.log_probs[row, place]:.6g}; the model's, at the temperature and under the masks of "
            f"the draws, is {true[row, place]:.6g}"
        )
    found = measure(learner, model, batch)
    again = measure(learner, model, attrs.evolve(batch, log_probs=true * batch.action_mask))
    if what := difference(found, again):
        raise RatioBroken(f"against the gradient with log-probabilities computed anew, {what}")
    for name, value in _ON_POLICY.items():
        if name in found.metrics and abs(found.metrics[name] - value) > _SAME:
            raise RatioBroken(f"the metric {name!r} is {found.metrics[name]:.6g} instead of {value}")


def check_no_failures(bench: Workbench) -> None:
    """Check that ends which are neither right nor wrong teach nothing."""
    learner, model = bench.learner(off_policy=True), bench.model(off_policy=True)
    trees = bench.trees()
    expected = measure(learner, model, bench.batch(learner, model, trees))
    thought = Step("think", "a", (4,), (-1.0,), (True,), terminal=False, body_start=1)
    ended = attrs.evolve(thought, function="end", terminal=True)
    cases: dict[str, tuple[Step, Verdict | None]] = {
        "truncated, and not judged": (attrs.evolve(thought, terminal=True, truncated=True), None),
        "truncated, and judged wrong": (
            attrs.evolve(thought, terminal=True, truncated=True), Verdict(0.0, step_scores=(0.0,)),
        ),
        "truncated, and judged right": (
            attrs.evolve(thought, terminal=True, truncated=True), Verdict(1.0, step_scores=(1.0,)),
        ),
        "judged midway": (thought, Verdict(0.0, step_scores=(0.0,))),
        "not judged": (ended, None),
        "abstained on": (ended, Verdict(None, reason="timed out")),
    }  # fmt: skip
    for kind, (step, verdict) in cases.items():
        edited = copied(trees)
        for tree in edited:
            inner = next(node for node in range(len(tree)) if tree.children[node] and node)
            for parent in (0, inner):
                if step.function in tree.legal(parent):
                    end = tree.attach(parent, step)
                    tree.verdict[end] = verdict
                    tree.backup(end, verdict.score if verdict else None)
        found = measure(learner, model, bench.batch(learner, model, edited))
        if what := difference(found, expected):
            raise NoFailureBroken(f"with ends that are {kind}, {what}")


def _drawn_at(bench: Workbench, model: FiniteModel, trees: list[SearchTree]) -> Tensor:
    """Return, for each prefix of the model, whether the policy drew an id after it."""
    number = {prefix: row for row, prefix in enumerate(model.prefixes)}
    drawn = torch.zeros(len(model.prefixes), dtype=torch.bool)
    for tree in trees:
        for node in range(1, len(tree)):
            state = tree.state(node)
            step = state.steps[-1]
            ids = bench.policy.context(state)
            before = len(ids) - len(step.ids)
            for place, is_drawn in enumerate(step.action_mask):
                drawn[number[ids[: before + place]]] |= is_drawn
    return drawn


@torch.no_grad()
def _log_probs(bench: Workbench, model: FiniteModel, batch: Experience) -> Tensor:
    """Return the log-probability of each id under the model, 0 at the first."""
    logits = model(input_ids=batch.ids, attention_mask=batch.attention_mask).logits.float()
    logits[:, :, list(bench.policy.banned)] = -torch.inf
    log_probs = (logits[:, :-1] / bench.policy.sampling_params.temperature).log_softmax(-1)
    chosen = log_probs.gather(2, batch.ids[:, 1:, None])[:, :, 0]
    return torch.cat([torch.zeros(len(batch), 1), chosen], 1)
