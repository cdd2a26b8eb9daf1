"""A value model learns a tree's values, and becomes a verifier that ranks."""

from __future__ import annotations

import copy
import logging
import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from rftt import Budget, Grammar, SearchConfig, SearchTree, State, Step, Verdict, Verifier, run_search
from rftt.fingerprint import difference, fingerprint
from rftt.learners.forward.micro_batches import micro_batches
from rftt.learners.rollouts.judged import judged_rollouts
from rftt.learners.value import ValueLearner, node_values
from rftt.problems.problem import Problem
from rftt.search.strategies import MCTS, BestOfN
from rftt.testing import FiniteModel, FinitePolicy, FiniteProblem, Reply, finite_problems
from rftt.testing.learner.check import check_learner
from rftt.tokens.grammar import Function
from rftt.verifiers.value import ValueHead, ValueModel, ValueVerifier
from tests.learners.finite_bodies import table_value_model
from tests.models import functional_policy, tiny_model

GRAMMAR = Grammar(
    [Function("think", "think"), Function("end", "end")],
    start=("think", "end"),
    followers={"think": ("think", "end")},
)
TABLE = {
    (): [Reply("think", "a", 0.5), Reply("think", "b", 0.5)],
    ("a",): [Reply("end", "yes", 0.5), Reply("end", "maybe", 0.5)],
    ("b",): [Reply("end", "no", 1.0)],
}
SCORES = {("a", "yes"): 1.0, ("a", "maybe"): 0.5, ("b", "no"): 0.25}


class _LongQuestion(FinitePolicy):
    """Repeats the question's id, so that the question has a value: a finite policy's is one id."""

    def context(self, state: State) -> tuple[int, ...]:
        return (0, *super().context(state))


def _searched(rollouts: int = 16) -> tuple[FiniteProblem, list[SearchTree]]:
    policy = FinitePolicy(GRAMMAR, TABLE)
    problem = FiniteProblem(policy, {path: Verdict(score) for path, score in SCORES.items()})
    config = SearchConfig(Budget(rollouts=rollouts))
    searcher = MCTS(expansion="sample", width=4)
    return problem, run_search(problem.problems(2), searcher, policy, problem.verifier, config)


def _fit(learner: ValueLearner, trees: Sequence[SearchTree], steps: int = 150) -> float:
    """Train as a trainer would, with a model that is of no use; return the last loss."""
    batch = learner.experience(trees)
    (module,) = learner.modules.values()
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        total = 0.0
        for part in micro_batches(batch, 20):
            output = learner.loss(torch.nn.Identity(), part)
            output.loss.backward()
            total += float(output.loss.detach())
        optimizer.step()
    return total


@pytest.mark.parametrize("objective", ["mse", "bce"])
@pytest.mark.parametrize("weighting", ["rollouts", "policy"])
def test_it_learns_the_exact_values_of_a_tree_and_ranks_its_leaves(
    objective: Any, weighting: Any
) -> None:
    problem, trees = _searched()
    link: Any = "logistic" if objective == "bce" else "identity"
    value_model = table_value_model(FiniteModel(problem.policy), link=link)
    learner = ValueLearner(problem.policy, value_model, objective=objective, weighting=weighting)
    _fit(learner, trees)
    verifier = learner.verifier()
    for path, score in SCORES.items():
        steps = [_step(problem.policy, path[: n + 1]) for n in range(len(path))]
        (verdict,) = verifier.judge([State(Problem("p", "what is it?"), tuple(steps))])
        # With a logistic link the value 1 is reached in the limit alone.
        assert verdict.score == pytest.approx(score, abs=0.03)
        assert verdict.step_scores is not None
        assert verdict.step_scores[-1] == verdict.score
    (question, inner) = verifier.judge(
        [
            State(Problem("p", "what is it?")),
            State(Problem("p", "?"), (_step(problem.policy, ("a",)),)),
        ]
    )
    assert question.step_scores is None
    # Under the policy: 3/4. What 32 rollouts say of it is what is learned.
    judged = [rollout for of_tree in judged_rollouts(trees) for rollout in of_tree]
    through = [r.score for r in judged if r.tree.text(r.path[0]) == "a"]
    if weighting == "rollouts":
        assert inner.score == pytest.approx(sum(through) / len(through), abs=0.02)
    assert 0.5 < (inner.score or 0.0) < 1.0
    scores = [v.score for v in verifier.judge([r.tree.state(r.end) for r in judged])]
    ranked = sorted(zip(scores, (r.score for r in judged), strict=True), key=lambda pair: pair[0] or 0)
    assert [true for _, true in ranked] == sorted(r.score for r in judged)


def _step(policy: FinitePolicy, path: tuple[str, ...]) -> Step:
    reply = next(reply for reply in policy.replies(path[:-1]) if reply.text == path[-1])
    ids = policy.ids(reply)
    return Step(reply.function, reply.text, ids, (0.0,), (True,), terminal=path not in policy.table)


@given(finite_problems(), st.integers(0, 99))
def test_targets_are_the_means_of_judged_rollouts(finite: FiniteProblem, seed: int) -> None:
    policy = _LongQuestion(finite.policy.grammar, finite.policy.table)
    problem = FiniteProblem(policy, finite.verdicts)
    config = SearchConfig(Budget(rollouts=6), seed=seed)
    trees = run_search(problem.problems(2), BestOfN(), policy, problem.verifier, config)
    learner = ValueLearner(policy, table_value_model(FiniteModel(policy)))
    batch = learner.experience(trees)
    judged = [rollout for of_tree in judged_rollouts(trees) for rollout in of_tree]
    assert len(batch) == len(judged)
    for row, rollout in enumerate(judged):
        tree = rollout.tree
        others = [r for r in judged if r.tree is tree]
        expected = [0.0]
        for depth in range(len(rollout.path) + 1):
            node = ([0, *rollout.path])[depth]
            below = [r for r in others if node in (0, *r.path)]
            expected.append(sum(r.count * r.score for r in below) / sum(r.count for r in below))
        length = int(batch.attention_mask[row].sum())
        assert batch.returns[row, :length].tolist() == pytest.approx(expected)
        assert batch.action_mask[row, :length].tolist() == [False] + [True] * (length - 1)
        assert batch.weights[row, 1:length].tolist() == [rollout.count] * (length - 1)
    assert batch.totals.actions == batch.weights.sum()


def test_a_policys_weighting_counts_each_sampled_child_once() -> None:
    policy = FinitePolicy(GRAMMAR, TABLE)
    tree = SearchTree(Problem("p", "what is it?"), GRAMMAR)
    a, b = (tree.attach(0, _step(policy, (name,))) for name in "ab")
    for parent, names in ((a, ["yes", "maybe", "maybe"]), (b, ["no"])):
        for name in names:
            node = tree.attach(parent, _step(policy, (tree.text(parent), name)))
            score = SCORES[tree.text(parent), name]
            tree.verdict[node] = Verdict(score)
            tree.backup(node, score)
    (rollouts,) = judged_rollouts([tree])
    values = node_values(rollouts, [1.0] * 4)
    assert values[id(tree), 0] == (1.0 + 0.5 + 0.5 + 0.25) / 4
    learner = ValueLearner(policy, table_value_model(FiniteModel(policy)), weighting="policy")
    batch = learner.experience([tree])
    # a and b were each drawn once, and so are each half of the tree.
    assert batch.weights[:, 2].tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 0.5])
    assert batch.returns[:, 1].tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 0.25])


def test_the_loss_by_hand() -> None:
    problem, _ = _searched()
    policy = problem.policy
    tree = SearchTree(Problem("p", "what is it?"), GRAMMAR)
    node = tree.attach(tree.attach(0, _step(policy, ("a",))), _step(policy, ("a", "yes")))  # type: ignore[arg-type]
    tree.verdict[node] = Verdict(1.0)
    tree.backup(node, 1.0)
    for objective, link, expected in (
        ("mse", "identity", ((0.25 - 1) ** 2 + 1) / 2),
        ("bce", "logistic", (math.log(1 + math.exp(-0.25)) + math.log(2.0)) / 2),
    ):
        model = FiniteModel(policy)
        value_model = table_value_model(model, link=link)
        with torch.no_grad():
            think = _step(policy, ("a",)).ids  # type: ignore[arg-type]
            value_model.head.weight[model.prefixes.index((0, *think))] = 0.25
        learner = ValueLearner(policy, value_model, objective=objective)  # type: ignore[arg-type]
        output = learner.loss(torch.nn.Identity(), learner.experience([tree]))
        assert float(output.loss.detach()) == pytest.approx(expected)


def test_what_cannot_be_learned_is_refused() -> None:
    problem, trees = _searched()
    value_model = table_value_model(FiniteModel(problem.policy))
    with pytest.raises(ValueError, match="link='logistic'"):
        ValueLearner(problem.policy, value_model, objective="bce")
    with pytest.raises(ValueError, match="link must be"):
        table_value_model(FiniteModel(problem.policy), link="probit")
    logistic = table_value_model(FiniteModel(problem.policy), link="logistic")
    learner = ValueLearner(problem.policy, logistic, objective="bce")
    tree = trees[0]
    tree.verdict[next(tree.ends())] = Verdict(-1.0)
    with pytest.raises(ValueError, match="needs scores from 0 to 1"):
        learner.experience([tree])


# -- real models ----------------------------------------------------------------------------------------


def _random_head(value_model: ValueModel) -> ValueModel:
    torch.manual_seed(4)
    torch.nn.init.normal_(value_model.head.weight)
    return value_model


def test_a_value_model_on_disk_is_the_same(tmp_path: Path) -> None:
    body = tiny_model(sharp=2.0)
    value_model = ValueModel.of_causal_lm(body, link="logistic")
    ids = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    assert torch.equal(value_model(ids, mask), torch.full((2, 4), 0.5)), "it begins at 0"
    value_model = _random_head(value_model)
    value_model.save_pretrained(tmp_path / "value")
    loaded = ValueModel.from_pretrained(tmp_path / "value")
    assert loaded.link == "logistic"
    assert not loaded.training
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids, mask), value_model(ids, mask), atol=0, rtol=0)
    names = {path.name for path in (tmp_path / "value").iterdir()}
    assert {"model.safetensors", "value_head.safetensors", "config.json"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    with safe_open(tmp_path / "value" / "value_head.safetensors", "pt") as tensors:
        assert set(tensors.keys()) == {"weight", "bias"}
    with pytest.raises(FileNotFoundError, match="of_causal_lm"):
        ValueModel.from_pretrained(tmp_path)
    assert difference(fingerprint(value_model), fingerprint(loaded)) is None
    assert body.lm_head.weight.requires_grad


def test_of_an_adapter_the_merged_model_is_the_body() -> None:
    from peft import LoraConfig, get_peft_model

    body = tiny_model()
    config = LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False)
    adapted = get_peft_model(copy.deepcopy(body), config)
    value_model = _random_head(ValueModel.of_causal_lm(adapted))
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        merged = adapted.merge_and_unload()
        hidden = merged(ids, output_hidden_states=True).hidden_states[-1]
        expected = hidden @ value_model.head.weight
        torch.testing.assert_close(value_model(ids), expected, atol=1e-4, rtol=1e-4)
    assert all(parameter.requires_grad for parameter in value_model.parameters())


@pytest.mark.parametrize("autocast", [False, True])
def test_a_head_adds_up_in_single_precision(autocast: bool) -> None:
    head = ValueHead(3)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([1.0, 2**-9, 2**-9]))
    hidden = torch.ones(2, 3, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        values = head(hidden)
    # In half precision 1 + 2 ** -9 is 1.
    assert values.tolist() == [1 + 2**-8] * 2


class _Boxes(Verifier):
    """Extracts the last step's text; everything is worth 7."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [Verdict(7.0, state.steps[-1].text if state.steps else None) for state in states]

    def equivalent(self, a: str, b: str) -> bool:
        return a.lower() == b.lower()


def _states(policy: Any) -> list[State]:
    states = []
    for number in range(5):
        steps = tuple(
            Step("next_step", f"T{n}", (40, 3 + n, *range(10, 10 + number), 60), (0.0,) * (3 + number),
                 (True,) * (3 + number), terminal=False)
            for n in range(number)
        )  # fmt: skip
        states.append(State(Problem(f"p{number}", f"{number}+1"), steps))
    return states


def test_a_verdict_is_the_values_at_the_ends_of_steps() -> None:
    policy = functional_policy()
    value_model = _random_head(ValueModel.of_causal_lm(policy.sampler.model)).train()  # type: ignore[attr-defined]
    for layer in value_model.body.layers:  # type: ignore[union-attr]
        layer.self_attn.attention_dropout = 0.5
    verifier = ValueVerifier(value_model, policy.context, answers=_Boxes(), batch_tokens=40)
    states = _states(policy)
    verdicts = verifier.judge(states)
    assert value_model.training
    value_model.eval()
    for state, verdict in zip(states, verdicts, strict=True):
        prefixes = [State(state.problem, state.steps[:n]) for n in range(len(state.steps) + 1)]
        with torch.no_grad():
            expected = [float(value_model(torch.tensor([policy.context(p)]))[0, -1]) for p in prefixes]
        assert verdict.score == pytest.approx(expected[-1], abs=1e-4)
        assert list(verdict.step_scores or ()) == pytest.approx(expected[1:], abs=1e-4)
        assert verdict.answer == (state.steps[-1].text if state.steps else None)
    alone = [verifier.judge([state])[0] for state in states]
    for one, other in zip(alone, reversed(verifier.judge(states[::-1])), strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4)
    assert verifier.judge([]) == []
    assert verifier.equivalent("A", "a") is True
    assert ValueVerifier(value_model, policy.context).equivalent("A", "a") is False
    assert ValueVerifier(value_model, policy.context).judge(states)[1].answer is None


def test_a_verifiers_fingerprint_is_that_of_its_weights() -> None:
    policy = functional_policy()
    value_model = _random_head(ValueModel.of_causal_lm(policy.sampler.model))  # type: ignore[attr-defined]
    verifier = ValueVerifier(value_model, policy.context, answers=_Boxes())
    known = fingerprint(verifier)
    assert (
        difference(known, fingerprint(ValueVerifier(value_model, policy.context, answers=_Boxes())))
        is None
    )
    other = copy.deepcopy(value_model)
    with torch.no_grad():
        other.head.weight.mul_(2)
    changed = fingerprint(ValueVerifier(other, policy.context, answers=_Boxes()))
    assert "head.weight" in (difference(known, changed) or "")


def test_a_verifier_can_be_pickled() -> None:
    value_model = _random_head(ValueModel.of_causal_lm(tiny_model(rows=100)))
    verifier = ValueVerifier(value_model, _fixed_context)
    again = pickle.loads(pickle.dumps(verifier))
    states = _states(None)
    assert [v.score for v in again.judge(states)] == [v.score for v in verifier.judge(states)]


def _fixed_context(state: State) -> tuple[int, ...]:
    return (3, *(i for step in state.steps for i in step.ids))


def test_half_precision_and_packing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "rftt")
    policy = functional_policy()
    model = policy.sampler.model  # type: ignore[attr-defined]
    trees = [_real_tree(policy, number) for number in range(3)]
    value_model = _random_head(ValueModel.of_causal_lm(model))
    found = []
    for packing in ("tree", "none"):
        learner = ValueLearner(policy, value_model, packing=packing)  # type: ignore[arg-type]
        batch = learner.experience(trees)
        for parts in ([batch], list(micro_batches(batch, 24))):
            value_model.zero_grad()
            total = 0.0
            for part in parts:
                output = learner.loss(model, part)
                output.loss.backward()
                total += float(output.loss.detach())
            gradient = [p.grad.flatten() for p in value_model.parameters() if p.grad is not None]
            found.append((total, torch.cat(gradient)))
        assert len(parts) > 1
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-4)
        torch.testing.assert_close(gradient, found[0][1], atol=1e-3, rtol=1e-3)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters()), "it is not trained"
    assert not caplog.records
    half = ValueLearner(policy, copy.deepcopy(value_model).bfloat16())
    loss = half.loss(model, half.experience(trees)).loss
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(found[0][0], rel=0.1)


def _real_tree(policy: Any, number: int) -> SearchTree:
    opener, closer = policy.tokens.openers, policy.tokens.closers
    tree = SearchTree(Problem(f"p{number}", f"{number}+1", "2"), policy.grammar)

    def step(function: str, body: int) -> Step:
        ids = (opener[function], body, closer[function])
        terminal = function == "output"
        return Step(function, "x", ids, (-1.0,) * 3, (True,) * 3, terminal=terminal, body_start=1)

    node = tree.attach(tree.attach(0, step("analysis", 4)), step("next_step", 5))
    for body, score in ((6, 1.0), (7, 0.0), (8 + number, 1.0)):
        end = tree.attach(node, step("output", body))
        tree.verdict[end] = Verdict(score)
        tree.backup(end, score)
    return tree


def test_learning_rates_and_modules() -> None:
    value_model = ValueModel.of_causal_lm(tiny_model())
    learner = ValueLearner(functional_policy(), value_model, learning_rate=1e-3)
    assert learner.modules == {"value_model": value_model}
    assert learner.learning_rates == {"value_model": 1e-3}
    assert attrs.evolve(learner, learning_rate=None).learning_rates == {}


def _with_table(policy: Any, reference: Any) -> ValueLearner:
    return ValueLearner(policy, table_value_model(reference))


def test_it_keeps_a_learners_promises() -> None:
    reason = "what it learns are values of states, also of those that a forced id or a question ends"
    check_learner(
        _with_table,
        waived=dict.fromkeys(["plain sequence", "padding", "masked places", "ratio"], reason)
        | {"policy gradient": "the policy is not trained"},
    )
