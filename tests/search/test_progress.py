"""The bar counts rollouts."""

from __future__ import annotations

import pytest

from rftt import (
    BestOfN,
    Budget,
    Grammar,
    MathVerifier,
    Problem,
    Reply,
    TabularPolicy,
    progress,
    run_search,
)


def test_the_bar_ends_at_all_rollouts(capsys: pytest.CaptureFixture[str]) -> None:
    policy = TabularPolicy(Grammar.default(), {(): [Reply("next_step", "so \\boxed{1}", 1.0)]})
    problems = [Problem(str(i), "?") for i in range(3)]
    with progress(12, "coins") as on_round:
        run_search(
            problems, BestOfN(4), policy, MathVerifier(), budget=Budget(rollouts=4), on_round=on_round
        )
    shown = capsys.readouterr().err
    assert "coins: 100%" in shown
    assert "12/12" in shown
