"""Losses and gradients, measured and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs
import torch
from attrs import frozen
from torch import Tensor, nn

from rftt.learners.experience import Experience
from rftt.learners.learner import Learner
from rftt.testing.finite.model import FiniteModel

TABLE: Final = "the model's table"
_RELATIVE: Final = 2e-5
"""Sums of some hundred terms in single precision differ by a tenth of this, relative to the largest."""
_ABSOLUTE: Final = 1e-7


@frozen(eq=False)
class Measured:
    """What a learner makes of a batch.

    Attributes:
        loss: the loss.
        gradients: of the model's table and of each parameter of the learner's modules, by name; 0 where
            there is none.
        metrics: the metrics.
    """

    loss: float
    gradients: Mapping[str, Tensor]
    metrics: Mapping[str, float]

    @property
    def table(self) -> Tensor:
        """The gradient of the model's table."""
        return self.gradients[TABLE]

    @property
    def is_finite(self) -> bool:
        """Whether everything is a finite number."""
        numbers = torch.tensor([self.loss, *self.metrics.values()])
        return all(bool(tensor.isfinite().all()) for tensor in (numbers, *self.gradients.values()))


def parameters(learner: Learner, model: FiniteModel) -> dict[str, nn.Parameter]:
    """Return what may be trained, by name."""
    found: dict[str, nn.Parameter] = {TABLE: model.table}
    for name, module in learner.modules.items():
        found |= {f"{name}.{key}": value for key, value in module.named_parameters()}
    return found


def measure(learner: Learner, model: FiniteModel, batch: Experience) -> Measured:
    """Return loss, gradients and metrics. Those of a batch without a sequence are 0."""
    trained = parameters(learner, model)
    for parameter in trained.values():
        parameter.grad = None
    loss, metrics = 0.0, {}
    if len(batch):
        output = learner.loss(model, batch)
        if output.loss.requires_grad:
            output.loss.backward()
        loss, metrics = float(output.loss.detach()), dict(output.metrics)
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in trained.items()
    }
    return Measured(loss, gradients, metrics)


def total(parts: Iterable[Measured]) -> Measured:
    """Return the sums of losses, gradients and metrics."""
    loss, gradients, metrics = 0.0, dict[str, Tensor](), dict[str, float]()
    for part in parts:
        loss += part.loss
        for name, gradient in part.gradients.items():
            gradients[name] = gradients[name] + gradient if name in gradients else gradient
        for name, value in part.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + value
    return Measured(loss, gradients, metrics)


def difference(found: Measured, expected: Measured, *, with_metrics: bool = False) -> str | None:
    """Say in words what differs by more than rounding; ``None`` if nothing does."""
    scale = max(abs(expected.loss), float(expected.table.abs().max()))
    if not _close(found.loss, expected.loss, scale):
        return f"the loss is {found.loss:.6g} instead of {expected.loss:.6g}"
    for name, gradient in expected.gradients.items():
        largest = float(gradient.abs().max()) if gradient.numel() else 0.0
        off = float((found.gradients[name] - gradient).abs().max()) if gradient.numel() else 0.0
        if not off <= _RELATIVE * largest + _ABSOLUTE:
            return (
                f"the gradient of {name} differs by up to {off:.3g}; its largest entry is {largest:.3g}"
            )
    if with_metrics:
        for name in sorted(found.metrics.keys() | expected.metrics.keys()):
            one, other = found.metrics.get(name, 0.0), expected.metrics.get(name, 0.0)
            if not _close(one, other, max(abs(other), 1.0)):
                return f"the metric {name!r} is {one:.6g} instead of {other:.6g}"
    return None


def experience_difference(found: Experience, expected: Experience) -> str | None:
    """Name a column in which two experiences differ at all; ``None`` if there is none."""
    for name, column in columns(expected).items():
        if not torch.equal(columns(found)[name], column):
            return f"{name} differs"
    return None if found.totals == expected.totals else "totals differs"


def columns(batch: Experience) -> dict[str, Tensor]:
    """Return the tensors of an experience, by name."""
    values = {field.name: getattr(batch, field.name) for field in attrs.fields(type(batch))}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def change(batch: Experience, edit: Callable[[str, Tensor], Tensor]) -> Experience:
    """Return an experience with each tensor edited, given its name."""
    edited: dict[str, Any] = {name: edit(name, value) for name, value in columns(batch).items()}
    return attrs.evolve(batch, **edited)


def _close(found: float, expected: float, scale: float) -> bool:
    # A comparison with NaN is false.
    return abs(found - expected) <= _RELATIVE * scale + _ABSOLUTE
