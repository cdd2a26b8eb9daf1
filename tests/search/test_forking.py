"""Forks at the least likely tokens: which places, of which solutions, and each once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from rftt import (
    Budget,
    Expansion,
    ExpansionResult,
    GenerationRequest,
    Grammar,
    MathVerifier,
    Policy,
    Problem,
    SearchConfig,
    SearchTree,
    State,
    Step,
    run_search,
)
from rftt.search.strategies import UncertaintyForking
from tests.models import functional_policy
from tests.strategies import problems


class _Spelling(Policy):
    """Spells one step of six tokens: the first is one of 20, each with p = .05, the others are any of
    three, with p = .3 each."""

    grammar = Grammar.default()

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        return [{"next_step": 0.0} for _ in states]

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        return [[self._step(request)] for request in requests]

    def _step(self, request: GenerationRequest) -> Step:
        rng, forced = Random(request.seed), len(request.prefix)
        free = [rng.randrange(3 if place else 20) for place in range(forced, 6)]
        log_probs = [math.log(0.05), *[math.log(0.3)] * 5]
        mask = [place >= forced for place in range(6)]
        return Step("next_step", "", (*request.prefix, *free), log_probs, mask, terminal=True)


def _fork_places(tree: SearchTree) -> list[tuple[int, ...]]:
    """Return the ids before each sample, the forced ones."""
    steps = [step for step in tree.step if step is not None]
    return [step.ids[: step.action_mask.index(True)] for step in steps]


@given(st.integers(0, 30), st.integers(1, 3))
def test_the_least_likely_place_of_all_is_forked_once(seed: int, branches: int) -> None:
    searcher = UncertaintyForking(roots=4, branches=branches)
    config = SearchConfig(Budget(rollouts=64), seed=seed)
    (tree,) = run_search(problems(1), searcher, _Spelling(), MathVerifier(), config)
    places = Counter(_fork_places(tree)[4:])
    assert places[()] == branches
    assert places.total() == 60
    assert len(places) >= 12


@given(st.integers(0, 30), st.integers(1, 3), st.integers(1, 3))
def test_no_place_is_forked_again_before_all_others_were(seed: int, forks: int, branches: int) -> None:
    searcher = UncertaintyForking(roots=1, forks_per_round=forks, branches=branches)
    sizes = [1]

    def note(trees: Sequence[SearchTree], finished: int) -> None:
        sizes.append(len(trees[0]))

    (tree,) = run_search(
        problems(1), searcher, _Spelling(), MathVerifier(),
        SearchConfig(Budget(rollouts=64), seed=seed), on_round=note,
    )  # fmt: skip
    assert tree.rollouts == 64
    known: set[tuple[int, ...]] = set()
    times: Counter[tuple[int, ...]] = Counter()
    for start, end in pairwise(sizes):
        steps = [step for step in tree.step[start:end] if step is not None]
        forked = {step.ids[: step.action_mask.index(True)] for step in steps} if start > 1 else set()
        times.update(forked)
        rest = known - forked
        assert not rest or max([times[place] for place in forked]) <= min(times[n] for n in rest) + 1
        known |= {step.ids[:place] for step in steps for place in range(6)}


@given(st.integers(0, 30))
def test_each_solution_of_the_first_round_is_forked_alike(seed: int) -> None:
    searcher = UncertaintyForking(roots=3, forks_per_round=2, branches=2)
    config = SearchConfig(Budget(rollouts=64, policy_calls=1), seed=seed)
    (tree,) = run_search(problems(1), searcher, _Spelling(), MathVerifier(), config)
    first = [step.ids for step in tree.step if step is not None]
    expansions = searcher.ask(tree, Random(0))
    owners = [
        next(n for n, ids in enumerate(first) if ids[: len(e.prefix)] == e.prefix) for e in expansions
    ]
    if len({ids[0] for ids in first}) == 3:
        assert owners == [0, 1, 2, 0, 1, 2], "each one's first fork before any one's second"
    assert {expansion.count for expansion in expansions} == {2}


def _told(
    searcher: UncertaintyForking, tree: SearchTree, expansion: Expansion, *solutions: Sequence[Step]
) -> ExpansionResult:
    """Put solutions on the tree as the engine does."""
    completions = []
    for steps in solutions:
        node, nodes = expansion.node, []
        for step in steps:
            node = tree.attach(node, step)
            nodes.append(node)
        completions.append(tuple(nodes))
    tree.rollouts += len(completions)
    return ExpansionResult(expansion, tuple(completions), (None,) * len(completions))


def _step(
    function: str, ids: Sequence[int], log_probs: Sequence[float], forced: int = 0, opener: int = 0
) -> Step:
    mask = [place >= forced for place in range(len(ids))]
    terminal = function == "output"
    return Step(function, "", tuple(ids), tuple(log_probs), mask, terminal, body_start=opener)


def _new_tree(rollouts: int = 99) -> SearchTree:
    tree = SearchTree(Problem("p", "?"), Grammar.default())
    tree.budget = Budget(rollouts=rollouts)
    return tree


def test_a_worked_example() -> None:
    tree, searcher = _new_tree(), UncertaintyForking(roots=2, forks_per_round=2, branches=1)
    (roots,) = searcher.ask(tree, Random(0))
    assert roots == Expansion(0, count=2)
    a = _step("next_step", [1, 2, 3, 4], [-0.5, -2.0, -1.0, -0.1])
    b = _step("next_step", [1, 2, 9, 4], [-0.4, -1.9, -3.0, -0.2])
    searcher.tell(tree, [_told(searcher, tree, roots, [a], [b])])
    # What both begin with are a's places: of b only the one after 1, 2, 9 is left.
    forks = list(searcher.ask(tree, Random(0)))
    prefixes = [(1,), (1, 2, 9), (1, 2)]
    assert forks == [Expansion(0, function="next_step", prefix=prefix) for prefix in prefixes]
    # After 1 comes 2 once more, and then what is new: only the places after that are.
    again = _step("next_step", [1, 2, 5, 6], [0.0, -2.0, -4.0, -5.0], forced=1)
    other = _step("next_step", [1, 2, 9, 7], [0.0, 0.0, 0.0, -9.0], forced=3)
    same = _step("next_step", [1, 2, 3, 4], [0.0, 0.0, -1.0, -0.1], forced=2)
    told = zip(forks, (again, other, same), strict=True)
    searcher.tell(tree, [_told(searcher, tree, fork, [step]) for fork, step in told])
    # Of b no place is new, so the one there is, is forked again.
    third = list(searcher.ask(tree, Random(0)))
    assert [fork.prefix for fork in third] == [(1, 2, 5), (1, 2, 9), ()]
    searcher.tell(tree, [_told(searcher, tree, fork) for fork in third])
    assert list(searcher.ask(tree, Random(0))) == third, "the budget did not reach them"
    searcher.tell(tree, [_told(searcher, tree, fork, [same]) for fork in third])
    # All of a's places but its last were forked: that is next, then the least likely of the others.
    forks = list(searcher.ask(tree, Random(0)))
    assert [fork.prefix for fork in forks] == [(1, 2, 3), (1, 2, 9), (1, 2, 5)]


def test_a_search_without_a_place_to_fork_ends() -> None:
    tree, searcher = _new_tree(), UncertaintyForking(roots=1)
    (roots,) = searcher.ask(tree, Random(0))
    searcher.tell(tree, [_told(searcher, tree, roots, [_step("next_step", [1, 2], [-0.001, 0.0])])])
    assert list(searcher.ask(tree, Random(0))) == []
    assert searcher.is_done(tree)


def test_the_answer_is_not_forked_but_whether_to_give_it() -> None:
    tree, searcher = _new_tree(), UncertaintyForking(roots=1, forks_per_round=9, branches=1)
    (roots,) = searcher.ask(tree, Random(0))
    plan = _step("next_step", [70, 1, 71], [-1.0, -2.0, -0.001], opener=1)
    answer = _step("output", [80, 5, 6, 81], [-3.0, -4.0, -5.0, -6.0], opener=1)
    searcher.tell(tree, [_told(searcher, tree, roots, [plan, answer])])
    # -4, -5 and -6 are least likely, and in the answer; 71 is more probable than .99.
    assert list(searcher.ask(tree, Random(0))) == [
        Expansion(1), Expansion(0, function="next_step"), Expansion(0),
    ]  # fmt: skip


def test_solutions_with_equal_first_steps_share_the_places_below() -> None:
    tree, searcher = _new_tree(), UncertaintyForking(roots=3, forks_per_round=9, branches=1)
    (roots,) = searcher.ask(tree, Random(0))
    first = _step("analysis", [1], [-0.001])
    ends = [_step("next_step", ids, [-1.0, -2.0]) for ids in ([2, 3], [2, 4], [5, 6])]
    searcher.tell(tree, [_told(searcher, tree, roots, *([first, end] for end in ends))])
    forks = searcher.ask(tree, Random(0))
    below = [(fork.node, fork.prefix) for fork in forks]
    assert below == [(1, (2,)), (5, (5,)), (1, ())], "three nodes, and three places"


@settings(max_examples=12)
@given(st.integers(0, 20))
def test_a_model_goes_on_from_what_came_before_the_fork(seed: int) -> None:
    searcher = UncertaintyForking(roots=2, forks_per_round=3)
    (tree,) = run_search(
        [Problem("p", "1+1", "2")], searcher, functional_policy(seed=1), MathVerifier(),
        SearchConfig(Budget(rollouts=14), seed=seed, max_tokens=24),
    )  # fmt: skip
    forked: Counter[tuple[object, ...]] = Counter()
    for node in range(1, len(tree)):
        step, parent = tree.step[node], tree.parent[node]
        assert step is not None
        kept = step.action_mask.index(True) if True in step.action_mask else len(step.ids)
        if kept:
            assert step.action_mask == (False,) * kept + (True,) * (len(step.ids) - kept)
            siblings = [tree.step[n] for n in tree.children[parent] if n < node]
            assert any(s is not None and s.ids[:kept] == step.ids[:kept] for s in siblings)
            path = tuple((s.function, s.ids) for s in tree.state(parent).steps)
            forked[path, step.ids[:kept]] += 1
    assert forked.total() > 0
    assert max(forked.values()) <= searcher.branches, "there are more places than forks"
