"""Pearson's test of goodness of fit."""

from __future__ import annotations

from collections.abc import Sequence


def assert_drawn_from(probabilities: Sequence[float], counts: Sequence[int]) -> None:
    """Fail if counts as far from their expectations as these come up in fewer than one case in a
    thousand. Classes that are expected fewer than five times are put together."""
    draws = sum(counts)
    pairs = [(count, draws * p) for count, p in zip(counts, probabilities, strict=True)]
    assert not any(count for count, expected in pairs if expected == 0), "drawn, and impossible"
    classes = [pair for pair in pairs if pair[1] >= 5]
    rare = [pair for pair in pairs if pair[1] < 5]
    if (expected := sum(e for _, e in rare)) >= 5:
        classes.append((sum(c for c, _ in rare), expected))
    statistic = sum((count - expected) ** 2 / expected for count, expected in classes)
    # The 99.9% point of chi-squared, by Wilson and Hilferty's approximation.
    k = len(classes) - 1
    assert statistic < k * (1 - 2 / (9 * k) + 3.09 * (2 / (9 * k)) ** 0.5) ** 3
