"""DeepConf: confidence by the probabilities of tokens, the vote of the confident, and the early stop."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import Budget, Grammar, Problem, SearchConfig, SearchTree, Step, Verdict, run_search
from rftt.interfaces import GenerationRequest, Policy, State, Verifier
from rftt.search.answers.confidence import (
    BottomGroupConfidence,
    ConfidenceVote,
    LowestGroupConfidence,
    TailConfidence,
    confidence_bar,
    group_means,
)
from rftt.search.strategies import DeepConfidence

_LOG_PROBS = st.lists(st.floats(-5, 0), max_size=20)


def _step(
    function: str, log_probs: Sequence[float], text: str = "", mask: Sequence[bool] | None = None
) -> Step:
    n = len(log_probs)
    return Step(function, text, (1,) * n, log_probs, mask or (True,) * n, terminal=function == "output")


def _tree(*solutions: tuple[str, float]) -> SearchTree:
    """A tree of solutions of one step and one token, each with its answer and probability."""
    tree = SearchTree(Problem("p", "?"), Grammar.default())
    for answer, probability in solutions:
        way = tree.attach(0, _step("next_step", [], "go"))
        end = tree.attach(way, _step("output", [math.log(probability)], answer))
        tree.verdict[end] = Verdict(None, answer)
        tree.backup(end, None)
    return tree


@given(_LOG_PROBS, st.integers(1, 25))
def test_groups_are_all_windows(log_probs: list[float], window: int) -> None:
    width = min(window, len(log_probs))
    starts = range(len(log_probs) - width + 1) if log_probs else ()
    expected = [sum(log_probs[start : start + width]) / width for start in starts]
    assert group_means(log_probs, window) == pytest.approx(expected, abs=1e-9)


def test_confidences_by_hand() -> None:
    """Probabilities 1/2, 1/8, 1/2, 1 of four tokens over two steps; a forced one between them does not
    count. Windows of two have the means 1/4, 1/4 and sqrt(1/2) of their probabilities."""
    tree = SearchTree(Problem("p", "?"), Grammar.default())
    half, eighth = math.log(1 / 2), math.log(1 / 8)
    first = tree.attach(0, _step("next_step", [half, eighth, -9.0], mask=[True, True, False]))
    end = tree.attach(first, _step("output", [half, 0.0]))
    assert LowestGroupConfidence(2)(tree, end) == pytest.approx(1 / 4)
    assert TailConfidence(2)(tree, end) == pytest.approx(math.sqrt(1 / 2))
    assert TailConfidence(100)(tree, end) == pytest.approx((1 / 32) ** (1 / 4))
    # Of windows of one, the lowest half is 1/8 and 1/2; their geometric mean is 1/4.
    assert BottomGroupConfidence(1, share=0.5)(tree, end) == pytest.approx(1 / 4)
    # A tenth of four windows is none; one is looked at.
    assert BottomGroupConfidence(1, share=0.1)(tree, end) == pytest.approx(1 / 8)
    assert [each(tree, 0) for each in (LowestGroupConfidence(), TailConfidence())] == [1.0, 1.0]


@given(_LOG_PROBS.filter(bool), st.integers(1, 25), st.floats(0.01, 1))
def test_confidences_are_ordered(log_probs: list[float], window: int, share: float) -> None:
    tree = SearchTree(Problem("p", "?"), Grammar.default())
    node = tree.attach(0, _step("next_step", log_probs))
    lowest = LowestGroupConfidence(window)(tree, node)
    assert 0 < lowest <= BottomGroupConfidence(window, share)(tree, node) + 1e-12 <= 1 + 2e-12
    assert lowest <= TailConfidence(window)(tree, node) + 1e-12


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.05, 1))
def test_the_bar_is_reached_by_the_share_that_is_kept(confidences: list[float], kept: float) -> None:
    bar = confidence_bar(confidences, kept)
    assert bar == pytest.approx(np.percentile(confidences, 100 * (1 - kept)))
    assert sum(each >= bar - 1e-12 for each in confidences) >= math.floor(kept * len(confidences))


def test_the_vote_of_the_confident() -> None:
    """Answer 1 three times at 0.2, 2 at 0.9 and 0.3, 3 at 0.8. All voting by weight: 2 has 1.2, 3 has
    0.8, 1 has 0.6. The upper half of confidences (0.9, 0.8, 0.3) gives 2 as well; of the upper third
    (0.9 and 0.8) it is 2 with 0.9; a plain vote would say 1."""
    tree = _tree(("1", 0.2), ("1", 0.2), ("1", 0.2), ("2", 0.9), ("2", 0.3), ("3", 0.8))
    for kept in (1.0, 0.5, 0.3):
        assert ConfidenceVote(kept=kept)(tree) == "2"
    # Doubled, 3 outweighs what is left of 2 in the upper half.
    tree = _tree(("1", 0.2), ("1", 0.2), ("1", 0.2), ("2", 0.9), ("2", 0.3), ("3", 0.8), ("3", 0.7))
    assert ConfidenceVote(kept=0.5)(tree) == "3"
    assert ConfidenceVote(kept=0.1)(tree) == "2"
    assert ConfidenceVote()(_tree()) is None


def test_answers_that_are_equivalent_vote_together() -> None:
    tree = _tree(("1/2", 0.5), ("0.5", 0.4), ("3", 0.8))
    assert ConfidenceVote(kept=1.0)(tree) == "3"
    assert ConfidenceVote(kept=1.0)(tree, lambda a, b: {a, b} == {"1/2", "0.5"}) == "1/2"


class _Traces(Policy, Verifier):
    """Solutions of three steps of two tokens, as sure and with the answer as is written down for each,
    in the order in which they are begun."""

    grammar = Grammar.default()

    def __init__(self, traces: Sequence[tuple[str, Sequence[float]]]) -> None:
        self.traces = traces
        self.begun = 0

    def prior(self, states: Sequence[State]) -> list[dict[str, float]]:
        raise AssertionError("not needed")

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        return [self._complete(request) for request in requests]

    def _complete(self, request: GenerationRequest) -> list[Step]:
        steps = list(request.state.steps)
        if not steps:
            self.begun += 1
        number = int(steps[0].text) if steps else self.begun - 1
        answer, probabilities = self.traces[number]
        made = []
        while len(steps) < 3 and (request.until == "solution" or not made):
            ends = len(steps) == 2
            log_prob = math.log(probabilities[len(steps)])
            step = _step(
                "output" if ends else "next_step", [log_prob] * 2, answer if ends else str(number)
            )
            made.append(step)
            steps.append(step)
        return made

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [Verdict(None, state.steps[-1].text) for state in states]


def _run(searcher: DeepConfidence, traces: Sequence[tuple[str, Sequence[float]]]) -> SearchTree:
    both = _Traces(traces)
    (tree,) = run_search([Problem("p", "?")], searcher, both, both, SearchConfig(Budget()))
    return tree


SURE = (0.9, 0.9, 0.9)
SHAKY = (0.9, 0.3, 0.9)


def test_what_falls_below_the_bar_is_stopped() -> None:
    """The lowest windows of two tokens in the warm-up are at 0.8, 0.6 and 0.4. With half kept the bar is
    their median. A solution with a step at 0.3 is stopped after it; one at 0.9 goes to its end."""
    warm = [("a", (0.9, 0.8, 0.9)), ("b", (0.6, 0.9, 0.9)), ("a", (0.9, 0.9, 0.4))]
    searcher = DeepConfidence(warmup=3, solutions=5, per_round=2, kept=0.5, window=2)
    tree = _run(searcher, [*warm, ("a", SHAKY), ("b", SURE)])
    assert tree.memo["deep_confidence"]["bar"] == pytest.approx(0.6)
    assert tree.rollouts == 3 + 2 + 3, "three at once, two steps of one, three of the other"
    ends = [tree.text(node) for node in range(len(tree)) if tree.is_terminal(node)]
    assert sorted(ends) == ["a", "a", "b", "b"]
    # Above the bar: a at 0.8; b at 0.6 and 0.9.
    assert searcher.choose(tree) == "b"
    assert ConfidenceVote(LowestGroupConfidence(2), kept=1.0)(tree) == "b"


def test_a_solution_shorter_than_the_window_is_not_stopped() -> None:
    unsure = ("c", (0.1, 0.1, 0.1))
    for window, rollouts in ((100, 2 + 3), (6, 2 + 3), (4, 2 + 2), (2, 2 + 1)):
        searcher = DeepConfidence(warmup=2, solutions=3, per_round=1, kept=0.5, window=window)
        assert _run(searcher, [("a", SURE), ("b", SURE), unsure]).rollouts == rollouts


def test_sampling_stops_once_the_vote_is_settled() -> None:
    agreed, split = [("a", SURE)] * 8, [("a", SURE), ("b", SURE)] * 4
    searcher = DeepConfidence(warmup=2, solutions=8, per_round=2, window=2, consensus=0.95)
    assert _run(searcher, agreed).rollouts == 2
    assert _run(searcher, split).rollouts == 2 + 3 * 6
    # After the warm-up a has 1 of 2; after two more 3 of 4, which is not less than 0.75.
    turn = [("a", SURE), ("b", SURE), *agreed]
    searcher = DeepConfidence(warmup=2, solutions=8, per_round=2, window=2, consensus=0.75)
    assert _run(searcher, turn).rollouts == 2 + 3 * 2


def test_nothing_is_chosen_before_the_bar_is_known() -> None:
    assert DeepConfidence().choose(SearchTree(Problem("p", "?"), Grammar.default())) is None
