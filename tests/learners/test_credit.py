"""Credit from trees: against exact gradients by enumeration, rational arithmetic, and by hand."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache, partial

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rftt.interfaces import Step, Verdict
from rftt.learners.credit.outcome import group_outcome
from rftt.learners.credit.paths import Credit, PathCredit
from rftt.learners.credit.policy_weighted import policy_weighted
from rftt.learners.credit.process import group_process
from rftt.learners.credit.rewards import (
    StepRewards,
    outcome_rewards,
    overlong_penalty,
    process_rewards,
)
from rftt.learners.credit.step_values import step_values
from rftt.learners.rollouts.judged import JudgedRollout, judged_rollouts
from rftt.problems.problem import Problem
from rftt.search.budget import Budget, SearchConfig
from rftt.search.engine.engine import run_search
from rftt.search.searcher import Searcher
from rftt.search.strategies.best_of_n import BestOfN
from rftt.search.strategies.mcts import MCTS
from rftt.search.tree.merge import merge
from rftt.search.tree.tree import SearchTree
from tests.learners.tabular_gradient import (
    GRAMMAR,
    Gradient,
    Nested,
    cosine,
    estimated_gradient,
    exact_gradient,
    random_problem,
    tree_of,
)

mean_outcome = partial(group_outcome, baseline="mean")
grpo = partial(group_outcome, baseline="mean", scale="std")
vine, vine_children = step_values, partial(step_values, values="children")
treerl = partial(step_values, kind="treerl")
siblings_alone = partial(policy_weighted, ancestor_weight=0.0)
process_outcome = partial(group_process, rewards=outcome_rewards)
to_go = partial(group_process, rewards=outcome_rewards, baseline="to_go")
COMPARING: dict[str, Credit] = {
    "leave_one_out": group_outcome,
    "mean": mean_outcome,
    "grpo": grpo,
    "both groups": partial(group_outcome, groups="both"),
    "policy_weighted": policy_weighted,
    "siblings alone": siblings_alone,
    "vine": vine,
    "vine, children": vine_children,
    "treerl": treerl,
    "treerl, children": partial(treerl, values="children"),
    "process to go": to_go,
}
every_comparing_credit = pytest.mark.parametrize("name", COMPARING)


def only(credit: Credit, children: Sequence[Nested]) -> list[PathCredit]:
    """Return the credit of the paths of a tree of nested children."""
    (paths,) = credit([tree_of(children)])
    return paths


def advantages(paths: Sequence[PathCredit]) -> list[tuple[float, ...]]:
    return [path.advantages for path in paths]


scores = st.sampled_from([0.0, 1.0, 0.1, -0.7, 1 / 3])
nested = st.recursive(scores, lambda child: st.lists(child, min_size=1, max_size=3), max_leaves=10)
trees_of_children = st.lists(nested, min_size=1, max_size=4)


# --- Exact expectations over all trees of a shape, on the two-step problem of good and bad steps. ---

# P(good) and the outcome after each pair of steps. At P(good) = 1/2 the first step is worth +-0.2.
OUTCOME = {"gg": 1.0, "gb": 0.2, "bg": 0.4, "bb": 0.0}
REWARD = {"g": 0.5, "b": -0.25}
"""Of the first step, where steps are rewarded."""


def _two_step_trees(shape: Sequence[int], good: float) -> Iterator[tuple[float, list[str], SearchTree]]:
    """Yield all trees of ``len(shape)`` first steps, of which each has so many second steps: its
    probability, the steps in the order of nodes, and the tree."""
    for draws in itertools.product("gb", repeat=len(shape) + sum(shape)):
        drawn, labels = iter(draws), [""]
        children: list[Nested] = []
        for number in shape:
            first = next(drawn)
            second = [next(drawn) for _ in range(number)]
            labels += [first, *(first + step for step in second)]
            children.append([OUTCOME[first + step] for step in second])
        probability = math.prod(good if step == "g" else 1 - good for step in draws)
        yield probability, labels, tree_of(children)


def _first_step_rewards(labels: Sequence[str], rewarded: bool) -> StepRewards:
    def rewards(rollout: JudgedRollout) -> list[float]:
        first, last = rollout.path
        return [REWARD[labels[first]] * rewarded, OUTCOME[labels[last]]]

    return rewards


def _expected_gradient(
    shape: Sequence[int], credit: Credit, good: float, rewarded: bool = False
) -> list[float]:
    """Return the expectation of ``sum(weight * advantage * d log pi / d logit)`` for the logits of
    "good" at the question, after a good step and after a bad one."""
    total = [0.0, 0.0, 0.0]
    for probability, labels, tree in _two_step_trees(shape, good):
        rewards = _first_step_rewards(labels, rewarded)
        (paths,) = credit([tree], rewards=rewards)  # type: ignore[call-arg]
        for path in paths:
            steps = zip(tree.path(path.end), path.advantages, path.weights, strict=True)
            for node, advantage, weight in steps:
                label = labels[node]
                parameter = 0 if len(label) == 1 else 1 + "gb".index(label[0])
                score = (label[-1] == "g") - good
                total[parameter] += probability * weight * advantage * score
    return total


def _exact(rollouts: int, good: float, rewarded: bool = False) -> list[float]:
    """Return ``rollouts`` times the gradient of the expected return, by its three derivatives."""
    p, r, g = Fraction(good), Fraction(good) * (1 - Fraction(good)), {}
    for first in "gb":
        g[first] = Fraction(OUTCOME[first + "g"]) - Fraction(OUTCOME[first + "b"])
    value = {first: p * g[first] + Fraction(OUTCOME[first + "b"]) for first in "gb"}
    gain = Fraction(REWARD["g"]) - Fraction(REWARD["b"]) if rewarded else Fraction(0)
    return [
        float(rollouts * each)
        for each in (r * (value["g"] - value["b"] + gain), p * r * g["g"], (1 - p) * r * g["b"])
    ]


def test_the_true_advantage_of_the_first_step_is_a_fifth() -> None:
    # Two children a node, all of it fixed: 64 trees. E[A | first step] by enumeration.
    sums, mass = {"g": 0.0, "b": 0.0}, 0.0
    for probability, labels, tree in _two_step_trees([2, 2], 0.5):
        (paths,) = policy_weighted([tree])
        first = tree.children[0][0]
        path = next(path for path in paths if tree.path(path.end)[0] == first)
        sums[labels[first]] += probability * path.advantages[0]
        mass += probability
    assert mass == pytest.approx(1.0)
    assert [sums["g"] / 0.5, sums["b"] / 0.5] == pytest.approx([0.2, -0.2])


@pytest.mark.parametrize(("good", "rewarded"), [(0.5, False), (0.25, True)])
@pytest.mark.parametrize("shape", [[1, 1, 1], [2, 1], [3, 1, 1]])
@pytest.mark.parametrize("ancestor_weight", [0.0, 1.0, 2.5])
def test_policy_weighted_is_unbiased_whatever_is_visited_how_often(
    shape: list[int], rewarded: bool, good: float, ancestor_weight: float
) -> None:
    credit = partial(policy_weighted, ancestor_weight=ancestor_weight)
    expected = _expected_gradient(shape, credit, good, rewarded)
    assert expected == pytest.approx(_exact(1, good, rewarded), abs=1e-12)


@pytest.mark.parametrize("rewarded", [False, True])
@pytest.mark.parametrize(
    ("credit", "factor"),
    [
        (partial(group_outcome, baseline="none"), 1.0),
        (group_outcome, 1.0),
        (mean_outcome, 2 / 3),
        (partial(group_process, baseline="to_go"), 1.0),
    ],
)
def test_independent_rollouts_give_the_exact_gradient(
    credit: Credit, factor: float, rewarded: bool
) -> None:
    exact = [factor * each for each in _exact(3, 0.25, rewarded)]
    assert _expected_gradient([1, 1, 1], credit, 0.25, rewarded) == pytest.approx(exact, abs=1e-12)


def test_shared_steps_bias_what_counts_rollouts() -> None:
    exact = _exact(3, 0.25)
    found = _expected_gradient([2, 1], group_outcome, 0.25)
    assert max(abs(a - b) for a, b in zip(found, exact, strict=True)) > 0.02


def test_a_value_that_holds_the_child_shrinks_by_the_number_of_children() -> None:
    found = _expected_gradient([3, 3], vine_children, 0.5)
    first, *second = _exact(1, 0.5)
    assert found == pytest.approx([first / 2, *(each * 2 / 3 for each in second)], abs=1e-12)


# --- Trees grown by searches, on random problems. ---


@cache
def _grown(searcher: Searcher, seed: int, number: int = 400) -> tuple[SearchTree, ...]:
    problem = random_problem(seed)
    config = SearchConfig(Budget(rollouts=16), max_tokens=64)
    problems = problem.problems(number)
    return tuple(run_search(problems, searcher, problem.policy, problem.verifier, config))


def _cosine(searcher: Searcher, credit: Credit, seed: int) -> float:
    problem, trees = random_problem(seed), _grown(searcher, seed)
    found: Gradient = estimated_gradient(problem.policy, trees, credit(trees))
    return cosine(found, exact_gradient(problem))


SAMPLING_MCTS = MCTS(expansion="sample", width=3)


seeds = pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))]
)


@seeds
def test_credit_that_claims_no_bias_points_along_the_exact_gradient(seed: int) -> None:
    for credit in (group_outcome, mean_outcome, grpo, policy_weighted, to_go):
        assert _cosine(BestOfN(), credit, seed) > 0.99
    for credit in (policy_weighted, siblings_alone):
        assert _cosine(SAMPLING_MCTS, credit, seed) > 0.99


@seeds
def test_counting_visits_of_mcts_points_elsewhere(seed: int) -> None:
    assert _cosine(SAMPLING_MCTS, group_outcome, seed) < 0.98


def test_forced_functions_leave_bodies_right() -> None:
    problem, trees = random_problem(2), _grown(MCTS(), 2)
    found = estimated_gradient(problem.policy, trees, policy_weighted(trees))
    counted = estimated_gradient(problem.policy, trees, group_outcome(trees))
    exact = exact_gradient(problem)

    def bodies(gradient: Gradient) -> Gradient:
        return {key: value for key, value in gradient.items() if len(key) == 3}

    assert cosine(bodies(found), bodies(exact)) > 0.99
    assert cosine(bodies(counted), bodies(exact)) < 0.9
    # The bias that the docstring admits: forced openers teach nothing.
    assert cosine(found, exact) < 0.9


# --- Policy-weighted against rational arithmetic. ---


def _rational(
    children: Sequence[Nested], weight: Fraction, up: tuple[Fraction, Fraction] | None, c: Fraction
) -> tuple[Fraction, list[tuple[list[Fraction], Fraction]]]:
    """Return the value of a node and, for each path below it, its advantages and its weight.

    Args:
        children: of the node.
        weight: of the node.
        up: the node's own action value and advantage; ``None`` at the root.
        c: the ancestors' weight.
    """
    below = [
        (Fraction(child), None)
        if isinstance(child, float)
        else (_rational(child, Fraction(0), None, c)[0], child)
        for child in children
    ]
    values = [value for value, _ in below]
    number, value = len(values), sum(values, Fraction(0)) / len(values)
    paths = []
    for q, child in below:
        others = sum(values, Fraction(0)) - q
        if up is None:
            advantage = q - others / (number - 1) if number > 1 else Fraction(0)
        elif number == 1:
            advantage = up[1]
        else:
            # The parent's baseline is its value less its advantage.
            advantage = q - (others + c * (up[0] - up[1])) / (number - 1 + c)
        share = weight / number
        if child is None:
            paths.append(([advantage], share))
        else:
            deeper = _rational(child, share, (q, advantage), c)[1]
            paths += [([advantage, *rest], own) for rest, own in deeper]
    return value, paths


@given(trees_of_children, st.sampled_from([0.0, 1.0, 0.5]))
@example([[1.0, 0.0], 0.1], 1.0)
def test_policy_weighted_is_the_recursion_of_its_docstring(children: list[Nested], c: float) -> None:
    found = only(partial(policy_weighted, ancestor_weight=c), children)
    _, paths = _rational(children, Fraction(1), None, Fraction(c))
    for path, (expected, weight) in zip(found, paths, strict=True):
        assert path.advantages == pytest.approx([float(each) for each in expected], abs=1e-12)
        assert path.weights == pytest.approx([float(weight)] * len(expected))


@given(trees_of_children)
def test_policy_weights_are_shared_out_whole(children: list[Nested]) -> None:
    tree = tree_of(children)
    (paths,) = policy_weighted([tree])
    assert sum(path.weights[-1] for path in paths) == pytest.approx(1.0)
    at: dict[int, float] = {}
    for path in paths:
        for node, weight in zip(tree.path(path.end), path.weights, strict=True):
            at[node] = at.get(node, 0.0) + weight
    for siblings in tree.children:
        shares = [at[node] for node in siblings]
        assert shares == pytest.approx([shares[0]] * len(shares) if shares else [])


@given(st.lists(st.tuples(scores, st.integers(0, 3)), min_size=1, max_size=6))
def test_on_independent_rollouts_policy_weighted_is_rloo(
    rollouts: list[tuple[float, int]],
) -> None:
    children: list[Nested] = []
    for score, length in rollouts:
        child: Nested = score
        for _ in range(length):
            child = [child]
        children.append(child)
    found, rloo = only(policy_weighted, children), only(group_outcome, children)
    for path, other in zip(found, rloo, strict=True):
        assert path.advantages == pytest.approx(other.advantages, abs=1e-12)
        assert path.weights == pytest.approx([weight / len(rloo) for weight in other.weights])


def test_policy_weighted_matches_rewards_to_go_with_rewards_to_go() -> None:
    # Rewards 1 and 0 for the first steps, 2 and 4 for the ends below the first; 3 below the second.
    tree = tree_of([[2.0, 4.0], [3.0]])
    reward = {1: 1.0, 2: 2.0, 3: 4.0, 4: 0.0, 5: 3.0}

    def rewards(rollout: JudgedRollout) -> list[float]:
        return [reward[node] for node in rollout.path]

    # Q of the first steps: 1 + 3 and 0 + 3. The ends: 2 and 4 against each other and, once, against the
    # baseline above less the reward before, 3 - 1. An only child has its parent's advantage.
    (paths,) = policy_weighted([tree], rewards=rewards)
    assert advantages(paths) == [(1.0, 2 - (4 + 2) / 2), (1.0, 4 - (2 + 2) / 2), (-1.0, -1.0)]
    assert [path.weights for path in paths] == [(0.25, 0.25), (0.25, 0.25), (0.5, 0.5)]
    (paths,) = siblings_alone([tree], rewards=rewards)
    assert advantages(paths) == [(1.0, -2.0), (1.0, 2.0), (-1.0, -1.0)]


def _forced(functions: Sequence[tuple[str, bool, float]], prior: dict[str, float]) -> SearchTree:
    """Return a tree of one step a path: function, whether it was forced, score."""
    tree = SearchTree(Problem("?", "?"), GRAMMAR)
    tree.prior[0] = {name: math.log(p) for name, p in prior.items()}
    for name, forced, score in functions:
        step = Step(name, "", (1, 2), (-1.0, -1.0), (not forced, True), terminal=True, body_start=1)
        node = tree.attach(0, step)
        tree.verdict[node] = Verdict(score)
        tree.backup(node, score)
    return tree


def test_forced_functions_weigh_as_the_policy_likes_them() -> None:
    prior = {"a": 0.75, "b": 0.25}
    tree = _forced([("a", False, 1.0), ("b", True, 0.0), ("b", True, 0.5)], prior)
    (paths,) = policy_weighted([tree])
    assert [path.weights[0] for path in paths] == pytest.approx([0.75, 0.125, 0.125])
    # Each against the others by their shares: (0 + 0.5) / 2; (0.75 + 0.125 * 0.5) / 0.875; 0.75 / 0.875.
    expected = [1 - 0.25, -(0.75 + 0.0625) / 0.875, 0.5 - 0.75 / 0.875]
    assert [path.advantages[0] for path in paths] == pytest.approx(expected)
    # An end that merged trees reached twice is two draws of its function.
    tree.backup(3, 0.5)
    (paths,) = policy_weighted([tree])
    assert [path.weights[0] for path in paths] == pytest.approx([0.75, 1 / 12, 1 / 6])
    # Sampled functions are their own weights, whatever the prior.
    sampled = _forced([("a", False, 1.0), ("b", False, 0.0), ("b", False, 0.5)], prior)
    weights = [path.weights[0] for path in policy_weighted([sampled])[0]]
    assert weights == pytest.approx([1 / 3] * 3)


def test_without_openers_a_searcher_that_asked_for_the_prior_chose_the_functions() -> None:
    tree = tree_of([1.0, [0.0]])
    for name, prior in (("a", 0.25), ("end", 0.75)):
        assert name in GRAMMAR.legal(None)
        tree.prior[0] = {**(tree.prior[0] or {}), name: math.log(prior)}
    (paths,) = policy_weighted([tree])
    assert [path.weights[0] for path in paths] == pytest.approx([0.75, 0.25])


def test_a_function_all_but_impossible_does_no_harm() -> None:
    tree = _forced([("a", True, 1.0), ("b", True, 0.0)], {"a": 1.0, "b": 1.0})
    tree.prior[0] = {"a": 0.0, "b": -1e4}
    (paths,) = policy_weighted([tree])
    assert all(math.isfinite(path.advantages[0]) for path in paths)
    assert [path.weights[0] for path in paths] == pytest.approx([1.0, 0.0])


def test_ends_that_merged_count_as_often_as_they_were_drawn() -> None:
    merged = merge([tree_of([1.0, 1.0]), tree_of([1.0])])
    other = merged.attach(0, attrs.evolve(tree_of([0.0]).step[1], ids=(9,)))
    merged.verdict[other] = Verdict(0.0)
    merged.backup(other, 0.0)
    for credit, tree_weight in ((policy_weighted, 1.0), (group_outcome, 4.0)):
        right, wrong = credit([merged])[0]
        # Each right one against two right and one wrong, the wrong one against three right.
        assert (right.advantages, right.weights) == ((pytest.approx(1 / 3),), (tree_weight * 3 / 4,))
        assert (wrong.advantages, wrong.weights) == ((-1.0,), (tree_weight / 4,))


# --- What holds for every credit that compares. ---


@every_comparing_credit
@given(children=trees_of_children, score=st.floats(-5, 5))
@settings(max_examples=20)
def test_equal_outcomes_give_exactly_nothing(name: str, children: list[Nested], score: float) -> None:
    def leveled(child: Nested) -> Nested:
        return score if isinstance(child, float) else [leveled(each) for each in child]

    if name == "process to go":
        # Ends at different depths have different rewards to go there.
        children = [[score]] * len(children)
    for path in only(COMPARING[name], [leveled(child) for child in children]):
        assert path.advantages == (0.0,) * len(path.advantages)


@every_comparing_credit
@given(children=trees_of_children, shift=st.sampled_from([1.0, -3.0, 100.0]))
@settings(max_examples=20)
def test_a_constant_in_all_rewards_changes_nothing(
    name: str, children: list[Nested], shift: float
) -> None:
    def shifted(child: Nested) -> Nested:
        return child + shift if isinstance(child, float) else [shifted(each) for each in child]

    if name == "process to go":
        children = [[child] for child in (0.0, 1.0, 0.3)][: len(children)]
    before = advantages(only(COMPARING[name], children))
    after = advantages(only(COMPARING[name], [shifted(child) for child in children]))
    for a, b in zip(before, after, strict=True):
        assert a == pytest.approx(b, abs=1e-9)


@every_comparing_credit
@given(children=trees_of_children)
@settings(max_examples=20)
def test_the_order_of_children_is_irrelevant(name: str, children: list[Nested]) -> None:
    def reversed_(children: Sequence[Nested]) -> list[Nested]:
        return [c if isinstance(c, float) else reversed_(c) for c in children][::-1]

    credit = COMPARING[name]
    paths, others = only(credit, children), only(credit, reversed_(children))[::-1]
    for path, other in zip(paths, others, strict=True):
        assert path.advantages == pytest.approx(other.advantages, abs=1e-12)
        assert path.weights == pytest.approx(other.weights)


@every_comparing_credit
@pytest.mark.parametrize("children", [[1.0], [[1.0]], [[[0.3]]]])
def test_a_single_path_has_nothing_to_be_compared_with(name: str, children: list[Nested]) -> None:
    (path,) = only(COMPARING[name], children)
    assert not any(path.advantages)
    assert path.weights == (1.0,) * len(path.advantages)


@every_comparing_credit
def test_trees_without_a_judged_rollout_have_no_paths(name: str) -> None:
    empty = SearchTree(Problem("?", "?"), GRAMMAR)
    first, second = COMPARING[name]([empty, tree_of([1.0, 0.0])])
    assert first == []
    assert [path.end for path in second] == [1, 2]


# --- Outcome. ---


@given(st.lists(scores, min_size=2, max_size=8))
def test_group_outcome_by_the_textbook(outcomes: list[float]) -> None:
    n, mean = len(outcomes), statistics.fmean(outcomes)
    others = [outcomes[:i] + outcomes[i + 1 :] for i in range(n)]
    expected = {
        "none": outcomes,
        "mean": [r - mean for r in outcomes],
        "leave_one_out": [r - statistics.fmean(rest) for r, rest in zip(outcomes, others, strict=True)],
    }
    for baseline, values in expected.items():
        paths = only(partial(group_outcome, baseline=baseline), [[r] for r in outcomes])
        assert [p.advantages for p in paths] == [pytest.approx((v, v), abs=1e-12) for v in values]
        assert all(path.weights == (1.0, 1.0) for path in paths)
    spread = statistics.stdev(outcomes)
    for std_eps in (0.0, 1e-4, 0.5):
        paths = only(partial(grpo, std_eps=std_eps), list(outcomes))
        scaled = [d / (spread + std_eps) if spread > 1e-12 else 0.0 for d in expected["mean"]]
        assert [path.advantages[0] for path in paths] == pytest.approx(scaled, abs=1e-9)


def test_groups_within_and_across_the_trees_of_a_question() -> None:
    trees = [tree_of([1.0, 0.0], "x"), tree_of([0.0, 1.0], "y"), tree_of([1.0, 1.0], "x")]

    def found(groups: str) -> list[list[float]]:
        paths = group_outcome(trees, baseline="mean", groups=groups)  # type: ignore[arg-type]
        return [[path.advantages[0] for path in each] for each in paths]

    assert found("tree") == [[0.5, -0.5], [-0.5, 0.5], [0.0, 0.0]]
    assert found("problem") == [[0.25, -0.75], [-0.5, 0.5], [0.25, 0.25]]
    assert found("both") == [[0.75, -1.25], [-1.0, 1.0], [0.25, 0.25]]


def test_a_scale_without_a_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match="baseline='mean'"):
        group_outcome([tree_of([1.0])], baseline="none", scale="std")


# --- Process rewards. ---


def _scored(*step_scores: Sequence[float], outcomes: Sequence[float]) -> SearchTree:
    """Return a tree of independent paths whose steps have these scores."""
    children: list[Nested] = []
    for scores, outcome in zip(step_scores, outcomes, strict=True):
        child: Nested = outcome
        for _ in scores[1:]:
            child = [child]
        children.append(child)
    tree = tree_of(children)
    for end, scores, outcome in zip(tree.ends(), step_scores, outcomes, strict=True):
        tree.verdict[end] = Verdict(outcome, step_scores=tuple(scores))
    return tree


RIGHT_AND_WRONG = _scored((1.0, 1.0, 1.0), (1.0, 1.0, 0.0), outcomes=(1.0, 0.0))


def test_the_perfect_last_step_of_the_right_path_is_not_punished() -> None:
    for credit in (
        partial(group_process, baseline="mean_reward"),
        partial(group_process, baseline="to_go"),
        partial(policy_weighted, rewards=process_rewards),
        partial(group_outcome, rewards=process_rewards),
    ):
        right, wrong = credit([RIGHT_AND_WRONG])[0]
        assert min(right.advantages) > 0 > wrong.advantages[-1]


def test_process_grpo_by_hand() -> None:
    # Rewards 1, 1, 1, 1, 1, 0: mean 5/6, variance (5/36 + 25/36) / 5 = 1/6. Deviations 1/6 and -5/6.
    right, wrong = group_process([RIGHT_AND_WRONG], std_eps=0.0)[0]
    root = math.sqrt(6)
    assert right.advantages == pytest.approx((root * 3 / 6, root * 2 / 6, root / 6))
    assert wrong.advantages == pytest.approx((root * -3 / 6, root * -4 / 6, root * -5 / 6))
    assert right.weights == wrong.weights == (1.0, 1.0, 1.0)


def test_process_rewards_against_those_of_the_others_to_go() -> None:
    tree = _scored((1.0, 0.5, 1.0), (0.0, 1.0), outcomes=(1.0, 1.0))
    credit = partial(group_process, baseline="to_go")
    long, short = credit([tree])[0]
    # To go: 2.5, 1.5, 1 and 1, 1; the short one has nothing to go at the third step.
    assert long.advantages == pytest.approx((1.5, 0.5, 1.0))
    assert short.advantages == pytest.approx((-1.5, -0.5))


def test_without_a_baseline_each_step_has_its_reward_to_go() -> None:
    tree = _scored((0.5, 0.25, 1.0), outcomes=(1.0,))
    (path,) = group_outcome([tree], baseline="none", rewards=process_rewards)[0]
    assert path.advantages == (1.75, 1.25, 1.0)


def test_the_last_process_reward_is_mixed_with_the_outcome() -> None:
    (rollout,) = judged_rollouts([_scored((0.5, 0.25), outcomes=(1.0,))])[0]
    assert outcome_rewards(rollout) == [0.0, 1.0]
    assert process_rewards(rollout) == pytest.approx([0.5, 0.6 * 1.0 + 0.4 * 0.25])
    assert process_rewards(rollout, outcome_weight=0.0) == [0.5, 0.25]


@pytest.mark.parametrize("step_scores", [None, (1.0,)])
def test_process_rewards_need_a_score_for_each_step(step_scores: tuple[float, ...] | None) -> None:
    tree = tree_of([[1.0]])
    tree.verdict[2] = Verdict(1.0, step_scores=step_scores)
    with pytest.raises(ValueError, match=r"tree '\?': the verdict on node 2 .* path has 2"):
        group_process([tree])


# --- Step values. ---


def test_step_values_by_hand() -> None:
    # Nodes: 1 with the ends 2 (right) and 3 (wrong), 4 with the end 5 (wrong).
    children: list[Nested] = [[1.0, 0.0], [0.0]]
    third, sixth = 1 / 3, 1 / 6
    by_visits = [(sixth, 0.5), (sixth, -0.5), (-third, 0.0)]
    assert advantages(only(vine, children)) == [pytest.approx(each) for each in by_visits]
    assert all(path.weights == (1.0, 1.0) for path in only(vine, children))
    # By children the root's value is (0.5 + 0) / 2.
    by_children = [(0.25, 0.5), (0.25, -0.5), (-0.25, 0.0)]
    found = only(vine_children, children)
    assert advantages(found) == [pytest.approx(each) for each in by_children]
    assert [path.weights[0] for path in found] == [0.25, 0.25, 0.5]
    # Global and local advantage; two rollouts go through node 1.
    two = math.sqrt(2)
    expected = [
        (2 * sixth / two, 2 * third + 0.5),
        (2 * sixth / two, -third - 0.5),
        (-2 * third, -third),
    ]
    assert advantages(only(treerl, children)) == [pytest.approx(each) for each in expected]


# --- DAPO's soft overlong punishment. ---


@pytest.mark.parametrize(
    ("length", "penalty"), [(1, 0.0), (6, 0.0), (7, 0.25), (8, 0.5), (10, 1.0), (11, 1.0), (50, 1.0)]
)
def test_overlong_paths_are_punished_little_by_little(length: int, penalty: float) -> None:
    tree = tree_of([[0.5]])
    # A step holds the length less 1; what the policy did not sample does not count.
    step = tree.step[1]
    assert step is not None
    mask = (True,) * (length - 1) + (False,) * 3
    tree.step[1] = attrs.evolve(
        step, ids=(1,) * len(mask), log_probs=(0.0,) * len(mask), action_mask=mask
    )
    (rollout,) = judged_rollouts([tree])[0]
    assert rollout.tokens == length
    assert overlong_penalty(max_length=10, cache=4)(rollout) == [0.0, 0.5 - penalty]
    twice = overlong_penalty(lambda _: [1.0, 2.0], max_length=10, cache=4)
    assert twice(rollout) == [1.0, 2.0 - penalty]


@pytest.mark.parametrize(("max_length", "cache"), [(10, 0), (10, 11)])
def test_an_impossible_overlong_penalty_is_refused(max_length: int, cache: int) -> None:
    with pytest.raises(ValueError, match="0 < cache <= max_length"):
        overlong_penalty(max_length=max_length, cache=cache)
