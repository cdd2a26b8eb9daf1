"""``rftt tune``: reinforce a model that has the functional tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import lightning
import torch
from peft import PeftModel
from transformers import PreTrainedModel

import rftt.learners.ppo
import rftt.learners.preference
import rftt.learners.presets
import rftt.search.strategies  # noqa: F401  (parts can be given by their names)
from rftt.cli.command import Command
from rftt.cli.fitting import MODEL, TRAINING, add_training, fit, with_adapter
from rftt.cli.parser import Parser
from rftt.cli.parts import LOAD_POLICY, SEARCH, model_path, read_problems
from rftt.interfaces import Policy, Verifier
from rftt.learners.critic import HeadCritic
from rftt.learners.distributed import rank
from rftt.learners.learner import Learner
from rftt.learners.reference import frozen_reference
from rftt.policies.functional import FunctionalPolicy
from rftt.policies.loading import load_model
from rftt.problems.problem import Problem
from rftt.search.budget import SearchConfig
from rftt.search.searcher import Searcher
from rftt.search.tree.storage import save_trees
from rftt.search.tree.tree import SearchTree
from rftt.training.loader import BatchLoader
from rftt.training.tree_rollouts import Rollouts, TreeRollouts
from rftt.training.tuner import Tuner

_PRESET: Final = {"class_path": "rftt.learners.presets.ReinforcePlusPlus"}
_LEARNER: Final = "learns from the trees: a class, or a function such as those of rftt.learners.presets"
GIVEN: Final = frozenset({"policy", "reference", "critic"})
"""What a learner is given here, rather than by options."""


def tune(
    model: str,
    problems: str | list[str],
    output: Path,
    policy: Policy,
    learner: Callable[..., Learner],
    searcher: Searcher,
    verifier: Verifier,
    trainer: Mapping[str, Any],
    tuner: Mapping[str, Any],
    search: SearchConfig = SEARCH,
    batch_size: int = 8,
    epochs: int = 1,
    lora_rank: int | None = None,
    dtype: torch.dtype = torch.float32,
    max_problems: int | None = None,
    checkpoint_every: int = 10,
) -> None:
    """Search problems with the functional tokens and learn from the trees, update after update.

    A run that was stopped goes on from its last checkpoint.

    Args:
        model: a folder in transformers' format with functional tokens, as rftt warmup leaves it.
        problems: FILE, SET=FILE or arithmetic:SPLIT:COUNT, or a list of those.
        output: folder for checkpoints, the trees of the last update, metrics and model.
        policy: samples steps; by default the model, with the arguments of load_policy.
        learner: a class, or a function such as those of rftt.learners.presets. Policy, reference and
            critic (a value head) are given to it.
        searcher: the strategy.
        verifier: gives the reward.
        trainer: settings of Lightning's trainer.
        tuner: settings of the tuner.
        search: what each tree may spend, and other settings of the search.
        batch_size: problems of an update.
        epochs: how often each problem is searched.
        lora_rank: rank of an adapter that is tuned and then merged; by default all weights are tuned.
        dtype: of the weights that are tuned, where the sampler has a copy of its own, as vLLM's has.
        max_problems: so many problems at most.
        checkpoint_every: updates between two checkpoints.
    """
    if (output / MODEL).exists():
        print(f"finished before: the model is in {output / MODEL}")
        return
    if not isinstance(policy, FunctionalPolicy):
        raise ValueError(
            f"{type(policy).__name__}: only a policy with functional tokens is reinforced; rftt warmup "
            "teaches a model the tokens"
        )
    lightning.seed_everything(tuner["seed"], verbose=False)
    own = getattr(policy.sampler, "model", None)
    tuned = own if own is not None else load_model(model_path(model), dtype=dtype)[0]
    adapted = with_adapter(tuned, policy.tokens, lora_rank)
    rollouts = TreeRollouts(policy, searcher, verifier, search)
    module = Tuner(
        adapted, _learner(learner, policy, adapted), **tuner,
        tree_rollouts=rollouts if own is not None else _following(rollouts, policy, adapted),
        on_trees=partial(_keep_trees, output / "trees.jsonl"),
    )  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    found = read_problems(problems, max_problems)
    loader = BatchLoader(found, batch_size, epochs=epochs, seed=tuner["seed"])
    fit(module, loader, policy.tokenizer, output, trainer, checkpoint_every)


def _learner(
    make: Callable[..., Learner], policy: FunctionalPolicy, model: PreTrainedModel | PeftModel
) -> Learner:
    """Return the learner with the policy, and the reference and the critic if it has use for them."""
    parameters = inspect.signature(make).parameters
    settings = getattr(make, "keywords", {})
    given: dict[str, Any] = {"policy": policy}
    # A copy of the weights that nothing is measured to would be a waste.
    penalties = [settings[name] for name in ("kl_coef", "kl") if name in settings]
    if "reference" in parameters and (any(penalties) or not penalties):
        given["reference"] = frozen_reference(model, policy.tokenizer, policy.tokens)
    if "critic" in parameters:
        given["critic"] = HeadCritic(model.config.hidden_size)
    return make(**given)


def _keep_trees(path: Path, trees: Sequence[SearchTree]) -> None:
    if rank() == 0:
        save_trees(path, trees)


def _following(
    rollouts: TreeRollouts, policy: FunctionalPolicy, model: PreTrainedModel | PeftModel
) -> Rollouts:
    """Return rollouts whose sampler gets the weights of the model before each search."""

    def searched(problems: Sequence[Problem], number: int) -> list[SearchTree]:
        policy.sampler.update(model)
        return rollouts(problems, number)

    return searched


def _extend(parser: Parser) -> None:
    parser.add_subclass_arguments(
        Learner, "learner", skip=set(GIVEN), fail_untyped=False, default=_PRESET, help=_LEARNER
    )
    add_training(parser)


COMMAND = Command(
    tune,
    parts={
        "policy": LOAD_POLICY,
        "learner": _PRESET,
        "searcher": {"class_path": "rftt.MCTS"},
        "verifier": {"class_path": "rftt.MathVerifier"},
    },
    defaults={**TRAINING, "tuner.learning_rate": 5e-7},
    skip=frozenset({"learner", "trainer", "tuner"}),
    extend=_extend,
    factories={"learner": GIVEN},
)
