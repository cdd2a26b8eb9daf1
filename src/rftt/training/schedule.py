"""The schedule of the learning rate."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_and_decay(optimizer: Optimizer, warmup: int, total: int | None) -> LambdaLR:
    """Raise the rate linearly over ``warmup`` updates, then lower it linearly to 0 at update ``total``;
    ``None`` keeps it."""

    def scale(update: int) -> float:
        raised = min(1.0, (update + 1) / max(1, warmup))
        return raised if total is None else raised * max(0.0, 1 - update / total)

    return LambdaLR(optimizer, scale)
