"""The bar counts completions as they arrive, also within a round."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from rftt import (
    BestOfN,
    Budget,
    GenerationRequest,
    Grammar,
    MathVerifier,
    Problem,
    SearchConfig,
    Step,
    run_search,
)
from rftt.interfaces import StepStream
from rftt.search.engine.progress import progress
from rftt.testing import Reply, TabularPolicy

COIN = {(): [Reply("next_step", "so \\boxed{1}", 1.0)]}


def test_the_bar_ends_at_all_completions(capsys: pytest.CaptureFixture[str]) -> None:
    policy = TabularPolicy(Grammar.default(), COIN)
    problems = [Problem(str(i), "?") for i in range(3)]
    with progress(12, "coins") as on_completions:
        run_search(
            problems, BestOfN(), policy, MathVerifier(), SearchConfig(Budget(rollouts=4)),
            on_completions=on_completions,
        )  # fmt: skip
    shown = capsys.readouterr().err
    assert "coins: 100%" in shown
    assert "12/12" in shown


def test_the_bar_moves_while_no_completion_arrives(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rftt.search.engine.progress._REFRESH_SECONDS", 0.01)
    with progress(12, "coins"):
        time.sleep(0.3)
    assert capsys.readouterr().err.count("0/12") > 3


class _OneByOne(TabularPolicy):
    """Finishes one request at a time."""

    def stream(self) -> StepStream:
        return _Queue(self)


class _Queue(StepStream):
    def __init__(self, policy: TabularPolicy) -> None:
        self._policy = policy
        self._waiting: list[tuple[int, GenerationRequest]] = []

    def add(self, key: int, request: GenerationRequest) -> None:
        self._waiting.append((key, request))

    def collect(self) -> Sequence[tuple[int, Sequence[Step]]]:
        if not self._waiting:
            return []
        key, request = self._waiting.pop(0)
        return [(key, self._policy.extend([request])[0])]


def test_the_hook_is_called_within_a_round() -> None:
    policy = _OneByOne(Grammar.default(), COIN)
    called: list[str] = []
    run_search(
        [Problem("p", "?")], BestOfN(), policy, MathVerifier(), SearchConfig(Budget(rollouts=3)),
        on_completions=lambda count: called.append(f"{count} completions"),
        on_round=lambda trees, finished: called.append("round"),
    )  # fmt: skip
    assert called == [*["1 completions"] * 3, "round"]
