"""The presets against TRL: the same rollouts and rewards in, the same loss and gradient out.

Where the two differ, a test says by how much and why. Written for TRL 1.16.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from rftt import SearchTree, State, Step, Verdict
from rftt.learners.experience import Experience
from rftt.learners.loss.aggregation import token_mean
from rftt.learners.policy_gradient import PolicyGradient
from rftt.learners.preference import PreferenceLearner, ipo_loss
from rftt.learners.presets import (
    CISPO,
    DAPO,
    GRPO,
    GSPO,
    RLOO,
    DrGRPO,
    ReinforcePlusPlusBaseline,
)
from rftt.problems.problem import Problem
from rftt.samplers.sampling import SamplingParams
from rftt.tokens.grammar import Function, Grammar
from tests.models import tiny_model, tokenizer

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install 'trl>=1.16,<2'")
pytestmark = pytest.mark.trl
datasets = pytest.importorskip("datasets")

GRAMMAR = Grammar([Function("end", "end")], start=("end",), followers={})

PROMPTS = {"first": [5, 6], "second": [7, 8, 9]}
COMPLETIONS = {
    "first": [[10, 11, 12, 13], [14, 15], [10, 16, 17]],
    "second": [[18, 19], [20, 21, 22, 23, 24], [18, 25, 26]],
}
"""Rollouts of two problems; some share their first token, and no two lengths of a group are equal."""
SCORES: dict[str, list[float | None]] = {"first": [1.0, 0.0, 0.25], "second": [0.0, 1.0, 1.0]}
LONGEST = 5

BETA = 0.1


# -- our side -------------------------------------------------------------------------------------


@attrs.frozen
class PlainPolicy:
    """A policy that knows no grammar: every id may follow."""

    sampling_params: SamplingParams = attrs.field(factory=SamplingParams)
    automaton: None = None

    def context(self, state: State) -> tuple[int, ...]:
        return (*PROMPTS[state.problem.question], *(i for step in state.steps for i in step.ids))


@torch.no_grad()
def log_probs(
    model: PreTrainedModel, prompt: Sequence[int], ids: Sequence[int], temperature: float = 1.0
) -> list[float]:
    """Log-probabilities of a completion, straight from the logits."""
    logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)[range(len(ids)), list(ids)].tolist()


def grow(
    old: PreTrainedModel,
    scores: dict[str, list[float | None]] = SCORES,
    temperature: float = 1.0,
    truncated: tuple[str, int] | None = None,
    completions: dict[str, list[list[int]]] = COMPLETIONS,
) -> list[SearchTree]:
    """One tree a problem, of the rollouts above, as if ``old`` had sampled them."""
    trees = []
    for name, prompt in PROMPTS.items():
        tree = SearchTree(Problem(name, name), GRAMMAR)
        for i, (ids, score) in enumerate(zip(completions[name], scores[name], strict=True)):
            step = Step(
                "end", "", ids, log_probs(old, prompt, ids, temperature), [True] * len(ids),
                terminal=True, truncated=(name, i) == truncated,
            )  # fmt: skip
            node = tree.attach(0, step)
            tree.verdict[node] = Verdict(score)
            tree.backup(node, score)
        trees.append(tree)
    return trees


# -- TRL's side -----------------------------------------------------------------------------------


@attrs.frozen
class Models:
    """The policy being tuned, the one that sampled, and the reference."""

    policy: PreTrainedModel
    old: PreTrainedModel
    reference: PreTrainedModel


def near(model: PreTrainedModel, seed: int, scale: float) -> PreTrainedModel:
    torch.manual_seed(seed)
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.data += scale * torch.randn_like(parameter)
    return other


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    policy = tiny_model(seed=1, sharp=3.0).double()  # so that rounding is of no account
    folder = tmp_path_factory.mktemp("reference")
    near(policy, 2, 0.03).save_pretrained(folder)
    # TRL loads the reference from where the policy says that it is from.
    policy.config._name_or_path = str(folder)
    return Models(
        policy, near(policy, 3, 0.03), AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    )


@pytest.fixture
def trainer(models: Models, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Make a trainer of TRL's, which is given the rollouts and scores from above."""
    forward = models.policy.forward

    def make(kind: str = "GRPO", scores: dict[str, list[float | None]] = SCORES, **settings: Any) -> Any:
        def rollout(prompts: list[str], _: Any) -> dict[str, Any]:
            names = list(dict.fromkeys(prompts))
            return {
                "prompt_ids": [PROMPTS[name] for name in prompts],
                "completion_ids": [ids for name in names for ids in COMPLETIONS[name]],
                "logprobs": None,
            }

        def reward(prompts: list[str], **_: Any) -> list[float | None]:
            return [score for name in dict.fromkeys(prompts) for score in scores[name]]

        settings = {"max_completion_length": LONGEST, "beta": 0.0, **settings}
        arguments = getattr(trl, f"{kind}Config")(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False,
            per_device_train_batch_size=6, num_generations=3, report_to=[], **settings,
        )  # fmt: skip
        made = getattr(trl, f"{kind}Trainer")(
            model=models.policy, reward_funcs=reward, args=arguments, processing_class=tokenizer(),
            train_dataset=datasets.Dataset.from_dict({"prompt": list(PROMPTS)}),
            **({"rollout_func": rollout} if kind == "GRPO" else {}),
        )  # fmt: skip
        if kind != "GRPO":
            names = [name for name in PROMPTS for _ in range(3)]
            made._tokenize_prompts = lambda *_: ([PROMPTS[name] for name in names], None, {})
            made._generate_single_turn = lambda *_: rollout(names, None)["completion_ids"]
        made.current_gradient_accumulation_steps = 1
        return made

    yield make
    models.policy.forward = forward  # TRL replaces it


def score(trainer: Any) -> dict[str, Any]:
    """Have TRL score the rollouts; return the inputs of its loss."""
    inputs: dict[str, Any] = trainer._generate_and_score_completions(
        [{"prompt": name} for name in PROMPTS for _ in range(3)]
    )
    return inputs


PAIRS = {"first": (0, 1), "second": (1, 0)}
"""Of each problem the rollout of the highest score and that of the lowest, by number."""


def preferences(
    models: Models, tmp_path: Path, loss_type: str, completions: dict[str, list[list[int]]]
) -> tuple[Any, dict[str, Any]]:
    """A preference trainer of TRL's, and its inputs: the chosen completions, then the rejected ones."""
    data = datasets.Dataset.from_dict({"prompt": ["1"], "chosen": ["2"], "rejected": ["3"]})
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False,
        report_to=[], loss_type=loss_type, beta=BETA,
    )  # fmt: skip
    made = trl.DPOTrainer(
        models.policy, models.reference, arguments, train_dataset=data, processing_class=tokenizer()
    )
    rows = [(PROMPTS[name], completions[name][PAIRS[name][side]]) for side in (0, 1) for name in PROMPTS]

    def padded(values: list[list[int]]) -> Tensor:
        tensors = [torch.tensor(row) for row in values]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)

    return made, {
        "input_ids": padded([prompt + ids for prompt, ids in rows]),
        "attention_mask": padded([[1] * len(prompt + ids) for prompt, ids in rows]),
        "completion_mask": padded([[0] * len(prompt) + [1] * len(ids) for prompt, ids in rows]),
    }


def with_old(inputs: dict[str, Any], old: PreTrainedModel, temperature: float = 1.0) -> dict[str, Any]:
    """Return the inputs as if ``old`` had sampled the completions."""
    rows = [
        torch.tensor(log_probs(old, prompt, ids, temperature))
        for name, prompt in PROMPTS.items()
        for ids in COMPLETIONS[name]
    ]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return inputs | {"old_per_token_logps": padded}


def gradient(model: PreTrainedModel, loss: Tensor) -> tuple[float, Tensor]:
    model.zero_grad()
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in model.parameters()])


def of_trl(trainer: Any, inputs: dict[str, Any]) -> tuple[float, Tensor]:
    trainer.model.train()
    return gradient(trainer.model, trainer._compute_loss(trainer.model, inputs))


def of_ours(learner: PolicyGradient, models: Models, batch: Experience) -> tuple[float, Tensor]:
    return gradient(models.policy, learner.loss(models.policy, batch).loss)


def assert_same(ours: tuple[float, Tensor], theirs: tuple[float, Tensor]) -> None:
    largest = float(theirs[1].abs().max())
    assert largest > 1e-3, "there is a gradient to compare"
    assert ours[0] == pytest.approx(theirs[0], abs=1e-6, rel=1e-6)
    torch.testing.assert_close(ours[1], theirs[1], atol=1e-6 * max(largest, 1.0), rtol=1e-4)


# -- equal ----------------------------------------------------------------------------------------

NO_PENALTY = {"max_tokens": 1000, "overlong_buffer": 1}

PRESETS: dict[str, tuple[dict[str, Any], Callable[..., PolicyGradient]]] = {
    "GRPO": (
        {"loss_type": "grpo", "beta": BETA, "use_bias_correction_kl": False},
        partial(GRPO, kl_coef=BETA),
    ),
    "GRPO by tokens": (
        {"loss_type": "bnpo", "beta": BETA, "use_bias_correction_kl": False},
        partial(GRPO, kl_coef=BETA, aggregation=token_mean),
    ),
    "Dr. GRPO": (
        {"loss_type": "dr_grpo", "scale_rewards": False},
        partial(DrGRPO, max_tokens=LONGEST),
    ),
    "DAPO": (
        {"loss_type": "dapo", "epsilon_high": 0.28},
        lambda policy, reference: DAPO(policy, **NO_PENALTY),
    ),
    "GSPO": (
        {
            "loss_type": "grpo", "importance_sampling_level": "sequence",
            "epsilon": 3e-4, "epsilon_high": 4e-4,
        },
        GSPO,
    ),
    "GSPO, wide clip": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        partial(GSPO, clip_low=0.2, clip_high=0.2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("preset", PRESETS)
def test_same_rollouts_give_the_same_loss_and_gradient(
    preset: str, temperature: float, models: Models, trainer: Callable[..., Any]
) -> None:
    settings, ours = PRESETS[preset]
    theirs = trainer(temperature=temperature, **settings)
    inputs = with_old(score(theirs), models.old, temperature)
    learner = ours(PlainPolicy(SamplingParams(temperature)), models.reference)
    batch = learner.experience(grow(models.old, temperature=temperature))
    assert batch.advantages.amax(1) + batch.advantages.amin(1) == pytest.approx(
        inputs["advantages"], abs=1e-6
    )
    assert_same(of_ours(learner, models, batch), of_trl(theirs, inputs))


def test_cispo_has_the_same_gradient_and_a_loss_that_differs_by_a_constant(
    models: Models, trainer: Callable[..., Any]
) -> None:
    """TRL's ``epsilon_high`` of CISPO is the largest weight itself, ours is what it exceeds 1 by, as in
    the paper's equation 5. Ours has ``log(pi / pi_old)`` in the place of ``log pi``."""
    cap = 1.02  # some weights are above it
    theirs = trainer(loss_type="cispo", epsilon_high=cap)
    inputs = with_old(score(theirs), models.old)
    learner = CISPO(PlainPolicy(), clip_high=cap - 1)
    batch = learner.experience(grow(models.old))
    (our_loss, our_gradient), (loss, expected) = of_ours(learner, models, batch), of_trl(theirs, inputs)
    torch.testing.assert_close(our_gradient, expected, atol=1e-6, rtol=1e-4)
    assert expected.abs().max() > 1e-3
    old = inputs["old_per_token_logps"]
    new = with_old(inputs, models.policy)["old_per_token_logps"]
    weights = (new - old).exp()
    assert (weights > cap).any()
    constant = -weights.clamp(max=cap) * inputs["advantages"][:, None] * old
    mask = inputs["completion_mask"]
    assert loss - our_loss == pytest.approx(float((constant * mask).sum() / mask.sum()), abs=1e-5)


def test_rloo_on_policy_has_the_same_advantages_and_gradient(
    models: Models, trainer: Callable[..., Any]
) -> None:
    """Both take the KL of a whole rollout from its reward before the leave-one-out baseline."""
    theirs = trainer("RLOO", beta=BETA)
    inputs = score(theirs)
    learner = RLOO(PlainPolicy(), models.reference, kl_coef=BETA)
    batch = learner.experience(grow(models.policy))
    for row, advantage in zip(batch.advantages, inputs["advantages"].tolist(), strict=True):
        assert row[row != 0].tolist() == pytest.approx([advantage] * int((row != 0).sum()), abs=1e-5)
    (_, ours), (_, expected) = of_ours(learner, models, batch), of_trl(theirs, inputs)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "loss_type"), [("dpo", "sigmoid"), ("ipo", "ipo")])
def test_preferences_have_the_same_loss_and_gradient(
    kind: Any, loss_type: str, models: Models, tmp_path: Path
) -> None:
    """DPO is the same, also where the two solutions share their first token. IPO in TRL compares means
    over tokens, ours sums, as in the paper's equation 17 and in OpenRLHF: so it is the same for
    solutions of one token."""
    completions = {name: [ids[:1] for ids in all_ids] for name, all_ids in COMPLETIONS.items()}
    if kind == "dpo":
        completions = COMPLETIONS
    learner = PreferenceLearner(PlainPolicy(), models.reference, kind, beta=BETA, pairs="paths")
    trees = grow(models.old, completions=completions)
    ours = gradient(models.policy, learner.loss(models.policy, learner.experience(trees)).loss)
    theirs, inputs = preferences(models, tmp_path, loss_type, completions)
    assert_same(ours, gradient(models.policy, theirs._compute_loss(models.policy, inputs, False)))


# -- different, and by how much -------------------------------------------------------------------


def test_ipo_of_trl_compares_means_over_tokens(models: Models, tmp_path: Path) -> None:
    theirs, inputs = preferences(models, tmp_path, "ipo", COMPLETIONS)
    loss = theirs._compute_loss(models.policy, inputs, False)

    def raised(name: str, i: int) -> float:
        """How much the mean log-probability of a completion is above the reference's."""
        ids = COMPLETIONS[name][i]
        policy, reference = (
            log_probs(model, PROMPTS[name], ids) for model in (models.policy, models.reference)
        )
        return (sum(policy) - sum(reference)) / len(ids)

    margins = torch.tensor([raised(name, i) - raised(name, j) for name, (i, j) in PAIRS.items()])
    assert float(loss.detach()) == pytest.approx(float(ipo_loss(margins, BETA).mean()), abs=1e-5)


def test_grpo_of_trl_weighs_its_kl_by_the_ratio_unless_told_otherwise(
    models: Models, trainer: Callable[..., Any]
) -> None:
    """TRL multiplies k3 by the ratio, which has a gradient (DeepSeek-V3.2, arXiv 2512.02556); the GRPO
    of DeepSeekMath, and ours, do not. On policy the loss is the same and the gradient is not."""
    theirs = trainer(loss_type="grpo", beta=BETA)
    learner = GRPO(PlainPolicy(), models.reference, kl_coef=BETA)
    batch = learner.experience(grow(models.policy))
    ours, expected = of_ours(learner, models, batch), of_trl(theirs, score(theirs))
    assert ours[0] == pytest.approx(expected[0], abs=1e-6)
    assert (ours[1] - expected[1]).abs().max() > 1e-3
    # The gradient of what is missing: k3 of each token times its log-probability.
    missing = attrs.evolve(learner, kl=None, objective=lambda log_ratio, k3: BETA * k3 * log_ratio)
    new, reference = batch.log_probs, batch.reference_log_probs
    k3 = (reference - new).exp() - 1 - (reference - new)
    rest = of_ours(missing, models, attrs.evolve(batch, advantages=k3 * batch.action_mask))
    torch.testing.assert_close(ours[1] + rest[1], expected[1], atol=1e-6, rtol=1e-4)


def test_rloo_of_trl_clips_the_ratio_of_whole_sequences(
    models: Models, trainer: Callable[..., Any]
) -> None:
    """Off policy, TRL's RLOO is PPO with one ratio for each sequence, the product over its tokens; ours
    is REINFORCE with a ratio for each token. The paper's is on policy and has neither."""
    theirs = trainer("RLOO")
    inputs = score(theirs)
    old = with_old(inputs, models.old)["old_per_token_logps"].sum(1)
    learner = RLOO(PlainPolicy(), kl_coef=0.0)
    batch = learner.experience(grow(models.old))
    (_, ours), (loss, expected) = (
        of_ours(learner, models, batch), of_trl(theirs, inputs | {"old_logps": old}),
    )  # fmt: skip
    assert (ours - expected).abs().max() > 1e-3
    new = with_old(inputs, models.policy)["old_per_token_logps"].sum(1)
    ratio, advantages = (new - old).exp(), inputs["advantages"]
    clipped = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    assert loss == pytest.approx(-float(clipped.mean()), abs=1e-5)


def test_rewards_scaled_by_the_batch_differ_from_whitening_by_a_factor(
    models: Models, trainer: Callable[..., Any]
) -> None:
    """``scale_rewards="batch"`` divides by the sample's standard deviation of the raw rewards of all
    rollouts; REINFORCE++-baseline by the population's of the differences to the group means, of all
    tokens, whose mean it subtracts too."""
    inputs = score(trainer(scale_rewards="batch"))
    rewards = torch.tensor([s for name in PROMPTS for s in SCORES[name]])
    centred = (rewards.view(2, 3) - rewards.view(2, 3).mean(1, keepdim=True)).flatten()
    torch.testing.assert_close(inputs["advantages"], centred / (rewards.std() + 1e-4))
    batch = ReinforcePlusPlusBaseline(PlainPolicy(), kl_coef=0.0).experience(grow(models.old))
    tokens = centred.repeat_interleave(batch.action_mask.sum(1))
    whitened = (tokens - tokens.mean()) / tokens.std(correction=0)
    torch.testing.assert_close(batch.advantages[batch.action_mask], whitened, atol=1e-5, rtol=1e-5)


def test_what_was_not_scored_stays_in_the_denominators_of_trl(
    models: Models, trainer: Callable[..., Any]
) -> None:
    """A rollout on which the verifier abstains (TRL: whose reward is ``None``) is in nobody's baseline.
    TRL divides by its tokens all the same; for us it is not there."""
    scores = SCORES | {"second": [0.0, None, 1.0]}
    theirs = trainer(scores=scores, loss_type="dapo")
    learner = DAPO(PlainPolicy(), clip_high=0.2, **NO_PENALTY)
    batch = learner.experience(grow(models.policy, scores))
    ours, expected = of_ours(learner, models, batch), of_trl(theirs, score(theirs))
    there, absent = int(batch.action_mask.sum()), len(COMPLETIONS["second"][1])
    torch.testing.assert_close(ours[1], expected[1] * (there + absent) / there, atol=1e-6, rtol=1e-4)


def test_groups_of_equal_outcome_stay_in_the_denominators_of_trl(
    models: Models, trainer: Callable[..., Any]
) -> None:
    """TRL's ``loss_type="dapo"`` is DAPO's aggregation alone, without its dynamic sampling: a group of
    equal rewards moves nothing, but its tokens make the others' steps smaller."""
    scores = SCORES | {"second": [1.0, 1.0, 1.0]}
    theirs = trainer(scores=scores, loss_type="dapo")
    learner = DAPO(PlainPolicy(), clip_high=0.2, **NO_PENALTY)
    batch = learner.experience(grow(models.policy, scores))
    ours, expected = of_ours(learner, models, batch), of_trl(theirs, score(theirs))
    here, there = (sum(map(len, COMPLETIONS[name])) for name in PROMPTS)
    torch.testing.assert_close(ours[1], expected[1] * (here + there) / here, atol=1e-6, rtol=1e-4)


def test_a_truncated_rollout_is_a_failure_in_trl_and_nothing_here(
    models: Models, trainer: Callable[..., Any]
) -> None:
    """Even with ``mask_truncated_completions`` its reward is in the baseline of the others."""
    # Without the end of a sequence every completion of TRL's counts as truncated: give it to the others.
    theirs = trainer(loss_type="dapo", scale_rewards=False, mask_truncated_completions=True)
    theirs.eos_token_ids = [ids[-1] for name in PROMPTS for ids in COMPLETIONS[name][:2]] + [17]
    inputs = score(theirs)
    assert not inputs["completion_mask"][5].any()
    assert inputs["advantages"][3:].tolist() == pytest.approx([-2 / 3, 1 / 3, 1 / 3])
    learner = DrGRPO(PlainPolicy(), max_tokens=LONGEST)
    batch = learner.experience(grow(models.old, truncated=("second", 2)))
    assert batch.advantages[3:, 3].tolist() == pytest.approx([-1 / 2, 1 / 2])
