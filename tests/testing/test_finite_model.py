"""A finite model gives its policy's probabilities, sees what masks show it, and knows its gradient."""

from __future__ import annotations

import math
from fractions import Fraction
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rftt import Budget, Grammar, Problem, SamplingParams, SearchConfig, Verdict, run_search
from rftt.interfaces import GenerationRequest, State
from rftt.learners.forward.states import automaton_states
from rftt.search.strategies import BestOfN
from rftt.testing import (
    FiniteModel,
    FinitePolicy,
    FiniteProblem,
    Reply,
    SpelledPolicy,
    finite_problems,
)
from rftt.testing.finite.gradient import expected_reward, judged_paths, policy_gradient
from rftt.testing.finite.model import trained_policy
from rftt.testing.finite.tabular import paths
from rftt.tokens.grammar import Function

GRAMMAR = Grammar(
    [Function("think", "think"), Function("end", "end")],
    start=("think", "end"),
    followers={"think": ("think", "end")},
)
TABLE = {
    (): [Reply("think", "a", 0.25), Reply("end", "no", 0.75)],
    ("a",): [Reply("end", "yes", 0.5), Reply("end", "maybe", 0.5)],
}
SCORES = {("no",): 0.0, ("a", "yes"): 1.0, ("a", "maybe"): 0.5}


def _problem(scores: dict[tuple[str, ...], float | None] | None = None) -> FiniteProblem:
    scored = scores or SCORES
    return FiniteProblem(FinitePolicy(GRAMMAR, TABLE), {p: Verdict(s) for p, s in scored.items()})


def _log_probs(model: FiniteModel, ids: tuple[int, ...]) -> list[float]:
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return [float(logits[t].detach().log_softmax(-1)[ids[t + 1]]) for t in range(len(ids) - 1)]


@settings(max_examples=40)
@given(finite_problems(), st.floats(0.3, 3.0))
def test_it_gives_the_policys_probabilities(finite: FiniteProblem, temperature: float) -> None:
    model = FiniteModel(finite.policy, temperature)
    found = list(paths(finite.policy))
    assert sum(probability for _, probability in found) == pytest.approx(1.0)
    for ids, probability in found:
        logits = model(input_ids=torch.tensor([(0, *ids)])).logits[0, :-1] / temperature
        log_prob = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum()
        assert float(log_prob.detach()) == pytest.approx(math.log(probability), abs=1e-5)


@settings(max_examples=40)
@given(finite_problems())
def test_log_probs_of_sampled_steps_are_the_models(finite: FiniteProblem) -> None:
    policy = FinitePolicy(finite.policy.grammar, finite.policy.table)
    model = FiniteModel(policy)
    config = SearchConfig(Budget(rollouts=4))
    (tree,) = run_search(finite.problems(), BestOfN(), policy, finite.verifier, config)
    for end in tree.ends():
        state = tree.state(end)
        drawn = [log_prob for step in state.steps for log_prob in step.log_probs]
        assert _log_probs(model, policy.context(state)) == pytest.approx(drawn, abs=1e-5)


@settings(max_examples=40)
@given(finite_problems(), st.randoms(use_true_random=False), st.booleans())
def test_a_packed_row_gives_what_each_path_gives(
    finite: FiniteProblem, rng: Random, as_float: bool
) -> None:
    """All paths in one row behind one question, shuffled by blocks, each seeing the question and its
    own places; against one padded row a path."""
    model = FiniteModel(finite.policy)
    found = [ids for ids, _ in paths(finite.policy)]
    width = 1 + max(map(len, found))
    flat = torch.tensor([(0, *ids, *[0] * (width - 1 - len(ids))) for ids in found])
    mask = torch.tensor([[t <= len(ids) for t in range(width)] for ids in found])
    each = model(input_ids=flat, attention_mask=mask.long(), output_hidden_states=True)
    rng.shuffle(order := list(range(len(found))))
    row, positions, owner = [0], [0], [-1]
    for number in order:
        row += found[number]
        positions += range(1, 1 + len(found[number]))
        owner += [number] * len(found[number])
    owners, places = torch.tensor(owner), torch.tensor(positions)
    seen = ((owners[:, None] == owners) | (owners == -1)) & (places <= places[:, None])
    seen[0] = torch.arange(len(row)) == 0
    mask4 = seen[None, None]
    if as_float:
        mask4 = torch.zeros(mask4.shape).masked_fill(~mask4, torch.finfo(torch.float32).min)
    packed = model(
        input_ids=torch.tensor([row]), attention_mask=mask4, position_ids=places[None],
        output_hidden_states=True,
    )  # fmt: skip
    for number, ids in enumerate(found):
        own = (owners == number).nonzero()[:, 0]
        assert packed.logits[0, own].equal(each.logits[number, 1 : 1 + len(ids)])
        assert packed.hidden_states[-1][0, own].equal(each.hidden_states[-1][number, 1 : 1 + len(ids)])


def test_padding_on_either_side_changes_nothing_and_wrong_positions_are_noticed() -> None:
    model = FiniteModel(FinitePolicy(GRAMMAR, TABLE))
    bare = model(input_ids=torch.tensor([[0, 1]])).logits[0]
    mask = torch.tensor([[0, 1, 1, 0]])
    positions = torch.tensor([[0, 0, 1, 0]])
    ids = torch.tensor([[3, 0, 1, 2]])
    assert model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[0, 1:3].equal(bare)
    wrong = model(input_ids=ids, attention_mask=mask, position_ids=torch.tensor([[0, 0, 2, 0]]))
    assert not wrong.logits[0, 2].equal(bare[1])


def test_features_tell_prefixes_apart_and_forbidden_ids_get_no_gradient() -> None:
    model = FiniteModel(FinitePolicy(GRAMMAR, TABLE))
    output = model(input_ids=torch.tensor([[0, 1, 3], [0, 2, 0]]), output_hidden_states=True)
    features = output.hidden_states[-1]
    assert features.sum(-1).eq(1).all()
    assert features[0, 0].equal(features[1, 0])
    assert len(features.view(6, -1).argmax(-1).unique()) == 5
    output.logits.log_softmax(-1)[:, 0, 1].sum().backward()
    gradient = model.table.grad
    assert gradient is not None
    assert gradient[~model.allowed].eq(0).all()
    # d log p_1 / d logits = (1 - p_1, -p_2), twice.
    assert gradient[2][1:3].tolist() == pytest.approx([2 * 0.75, -2 * 0.75])
    assert gradient.abs().sum().item() == pytest.approx(3.0)


def test_what_it_cannot_do_is_refused() -> None:
    model = FiniteModel(FinitePolicy(GRAMMAR, TABLE))
    ids = torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match="use_cache"):
        model(input_ids=ids, use_cache=True)
    with pytest.raises(TypeError, match="a tuple"):
        model(input_ids=ids, attention_mask=(1, 1))
    with pytest.raises(ValueError, match=r"give \(1, 1, 2, 2\)"):
        model(input_ids=ids, attention_mask=torch.ones(2, 1, 2, 2))


def test_the_exact_gradient_is_that_on_paper() -> None:
    # J = 1/4 (1/2 * 1 + 1/2 * 1/2) = 3/16. At the question dJ/dlogit = p (V - J); below a, times 1/4.
    finite = _problem()
    model = FiniteModel(finite.policy)
    assert float(expected_reward(model, finite).detach()) == pytest.approx(3 / 16)
    gradient = policy_gradient(model, finite)
    reward, value = Fraction(3, 16), Fraction(3, 4)
    question = [Fraction(1, 4) * (value - reward), Fraction(3, 4) * (0 - reward)]
    below = [Fraction(1, 4) * Fraction(1, 2) * (r - value) for r in (1, Fraction(1, 2))]
    assert gradient[2][1:3].tolist() == pytest.approx([float(g) for g in question])
    after_a = gradient[model.prefixes.index((0, 1))]
    assert after_a[3:].tolist() == pytest.approx([float(g) for g in below])


def test_temperature_divides_the_logits() -> None:
    finite = _problem()
    model = FiniteModel(finite.policy, temperature=0.5)
    assert float(expected_reward(model, finite, temperature=0.5).detach()) == pytest.approx(3 / 16)
    # d/dlogit at temperature T is 1/T of that of the logits divided by T.
    plain = policy_gradient(FiniteModel(finite.policy), finite)
    assert torch.allclose(policy_gradient(model, finite, temperature=0.5), 2 * plain, atol=1e-6)


def test_abstentions_are_left_out_of_the_expectation() -> None:
    # Of no (3/4, score 0) and a, yes (1/8, score 1), with a, maybe unjudged: E = 1/7.
    finite = _problem({("no",): 0.0, ("a", "yes"): 1.0, ("a", "maybe"): None})
    model = FiniteModel(finite.policy)
    assert float(expected_reward(model, finite).detach()) == pytest.approx(1 / 7)
    found = judged_paths(model, finite)
    conditional = found.log_probs.softmax(0)
    reinforce = (conditional.detach() * (found.rewards - 1 / 7) * found.log_probs).sum()
    (gradient,) = torch.autograd.grad(reinforce, model.table)
    assert torch.allclose(gradient.double(), policy_gradient(model, finite), atol=1e-6)
    with pytest.raises(ValueError, match="every verdict abstains"):
        expected_reward(model, _problem(dict.fromkeys(SCORES)))


def test_ascending_the_gradient_reaches_the_optimum_and_can_be_sampled_from() -> None:
    finite = _problem()
    model = FiniteModel(finite.policy)
    optimizer = torch.optim.SGD(model.parameters(), lr=50.0, maximize=True)
    for _ in range(50):
        optimizer.zero_grad()
        expected_reward(model, finite).backward()
        optimizer.step()
    assert float(expected_reward(model, finite).detach()) > 0.95
    policy = finite.policy
    assert isinstance(policy, FinitePolicy)
    policy = trained_policy(policy, model)
    (prior,) = policy.prior([State(Problem("p", "?"))])
    assert math.exp(prior["think"]) > 0.95
    again = float(expected_reward(FiniteModel(policy), _problem()).detach())
    assert again == pytest.approx(float(expected_reward(model, finite).detach()), abs=1e-5)


SPELLED = SpelledPolicy(
    Grammar(
        [Function("think", "think"), Function("tool", "use a tool"), Function("end", "end")],
        start=("think", "tool"),
        followers={"think": ("end",), "tool": ("end",)},
    ),
    {
        (): [Reply("think", "a b", 0.5), Reply("think", "a", 0.125), Reply("tool", "go : x", 0.375)],
        ("a b",): [Reply("end", "c", 1.0)],
        ("a",): [Reply("end", "c", 1.0)],
        ("go : x",): [Reply("end", "c c c", 0.25), Reply("end", "c", 0.75)],
    },
    SamplingParams(temperature=0.5),
)


def _request(seed: int = 0, **settings: Any) -> GenerationRequest:
    return GenerationRequest(State(Problem("p", "?")), seed, **settings)


def test_a_spelled_step_has_an_opener_words_and_a_closer() -> None:
    # Of the function, of "a" and of what follows it: 5/8, 1, 4/5 and 1, or 1/5 for the closer.
    found = {}
    for step, *_ in SPELLED.extend([_request(seed) for seed in range(40)]):
        found[step.text] = step
    long, short, tool = found["a b"], found["a"], found["go : x"]
    assert [math.exp(p) for p in long.log_probs] == pytest.approx([5 / 8, 1, 4 / 5, 1])
    assert [math.exp(p) for p in short.log_probs] == pytest.approx([5 / 8, 1, 1 / 5])
    assert long.ids[:2] == short.ids[:2]
    assert long.ids[-1] == short.ids[-1]
    # What follows ":" is the tool's, its closer too.
    assert tool.action_mask == (True, True, True, False, False)
    assert long.action_mask == (True,) * 4
    ((forced, _),) = SPELLED.extend([_request(function="tool", max_steps=2)])
    assert forced.action_mask == (False, True, True, False, False)
    assert all(len(step.ids) == len(step.text.split()) + 2 for step in found.values())


def test_a_limit_truncates_a_spelled_step() -> None:
    for limit in range(1, 6):
        (steps,) = SPELLED.extend([_request(seed=1, max_tokens=limit)])
        assert sum(sum(step.action_mask) for step in steps) == limit or not steps[-1].truncated
        assert all(not step.truncated for step in steps[:-1])
        if steps[-1].truncated:
            assert steps[-1].terminal
            assert len(steps[-1].text.split()) == len(steps[-1].ids) - 1


def test_the_model_of_a_spelled_policy_needs_its_masks_and_its_temperature() -> None:
    model = FiniteModel(SPELLED, temperature=0.5)
    automaton = SPELLED.automaton
    assert automaton is not None
    for steps in SPELLED.extend([_request(seed) for seed in range(10)]):
        state = State(Problem("p", "?"), tuple(steps))
        ids = torch.tensor([SPELLED.context(state)])
        logits = model(input_ids=ids).logits[:, :-1].detach() / 0.5
        states = automaton_states(ids, torch.ones_like(ids).bool(), torch.tensor([1]), automaton)
        allowed = automaton.mask(states[0, 1:])[None]
        assert not allowed[:, :-1, -1].any()
        masked = logits.masked_fill(~allowed, -torch.inf)
        found, unmasked = (
            some.log_softmax(-1).gather(2, ids[:, 1:, None])[0, :, 0] for some in (masked, logits)
        )
        drawn = torch.tensor([d for step in steps for d in step.action_mask])
        expected = torch.tensor([p for step in steps for p in step.log_probs])
        assert torch.allclose(found[drawn], expected[drawn], atol=1e-5)
        assert (unmasked < found - 0.1).all()


def test_dropout_is_for_training() -> None:
    model = FiniteModel(FinitePolicy(GRAMMAR, TABLE), dropout=0.5)
    ids = torch.tensor([[0, 1]])
    model.eval()
    assert model(input_ids=ids).logits.equal(model(input_ids=ids).logits)
    model.train()
    torch.manual_seed(0)
    assert len({str(model(input_ids=ids).logits.tolist()) for _ in range(20)}) > 1
