"""``rftt warmup``: teach a model the functional tokens, from its own trees."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import lightning
import torch

import rftt.search.strategies  # noqa: F401  (strategies can be given by their names)
from rftt.cli.command import Command
from rftt.cli.fitting import MODEL, TRAINING, add_training, fit, with_adapter
from rftt.cli.parser import Parser
from rftt.cli.parts import LOAD_POLICY, SEARCH, model_path, read_problems
from rftt.files import atomic_write
from rftt.interfaces import Policy, Verifier
from rftt.learners.supervised import SupervisedLearner
from rftt.policies.functional import FunctionalPolicy
from rftt.policies.loading import load_model
from rftt.policies.prompted import PromptedPolicy
from rftt.problems.problem import Problem
from rftt.samplers.transformers.sampler import TransformersSampler
from rftt.search.budget import SearchConfig
from rftt.search.engine.engine import run_search
from rftt.search.engine.progress import progress
from rftt.search.searcher import Searcher
from rftt.tokens.embeddings import initialize_token_embeddings
from rftt.tokens.functional import FunctionalTokens
from rftt.tokens.grammar import Grammar
from rftt.training.loader import BatchLoader
from rftt.training.tuner import Tuner
from rftt.training.warmup import WarmUp


def warmup(
    model: str,
    problems: str | list[str],
    output: Path,
    policy: Callable[[], Policy],
    searcher: Searcher,
    verifier: Verifier,
    trainer: Mapping[str, Any],
    tuner: Mapping[str, Any],
    search: SearchConfig = SEARCH,
    epochs: int = 10,
    batch_size: int = 32,
    lora_rank: int | None = None,
    dtype: torch.dtype = torch.float32,
    max_problems: int | None = None,
    checkpoint_every: int = 10,
) -> None:
    """Search by prompts, annotate right and wrong paths with functional tokens, and fine-tune on them.

    A run that was stopped goes on from its last finished round, or its last checkpoint.

    Args:
        model: nano, a folder in transformers' format, or a name on the hub.
        problems: FILE, SET=FILE or arithmetic:SPLIT:COUNT, or a list of those.
        output: folder for search, annotated solutions (warm_up.jsonl), checkpoints and model.
        policy: searches; by default the model, with the arguments of load_policy.
        searcher: the strategy.
        verifier: judges where completions end.
        trainer: settings of Lightning's trainer.
        tuner: settings of the tuner.
        search: what each tree may spend, and other settings of the search.
        epochs: how often each solution is learned.
        batch_size: solutions of an update.
        lora_rank: rank of an adapter that is tuned and then merged; by default all weights are tuned.
        dtype: of the weights that are tuned.
        max_problems: so many problems at most.
        checkpoint_every: updates between two checkpoints.
    """
    if (output / MODEL).exists():
        print(f"finished before: the model is in {output / MODEL}")
        return
    lightning.seed_everything(tuner["seed"], verbose=False)
    found = read_problems(problems, max_problems)
    solutions = _solutions(output, found, policy, searcher, verifier, search)
    tuned, tokenizer = load_model(model_path(model), dtype=dtype)
    tokens = FunctionalTokens.add(tokenizer, Grammar.default())
    initialize_token_embeddings(tuned, tokenizer, tokens)
    functional = FunctionalPolicy(TransformersSampler(tuned, tokenizer), tokenizer, tokens)
    adapted = with_adapter(tuned, tokens, lora_rank)
    loader = BatchLoader(solutions.to_list(), batch_size, epochs=epochs, seed=tuner["seed"])
    fit(
        Tuner(adapted, SupervisedLearner(functional), **tuner),
        loader, tokenizer, output, trainer, checkpoint_every,
    )  # fmt: skip


def _solutions(
    output: Path, problems: Sequence[Problem], load: Callable[[], Policy], searcher: Searcher,
    verifier: Verifier, search: SearchConfig,
) -> datasets.Dataset:  # fmt: skip
    """Return the annotated solutions, made of a search if they are not in the folder."""
    path = output / "warm_up.jsonl"
    if not path.exists():
        policy = load()
        if not isinstance(policy, PromptedPolicy):
            raise ValueError("the warm-up searches by prompts: give --policy.prompted true")
        with progress(len(problems) * (search.budget.rollouts or 0)) as on_completions:
            trees = run_search(
                problems, searcher, policy, verifier, search,
                directory=output / "search", on_completions=on_completions,
            )  # fmt: skip
        tokens = FunctionalTokens.add(policy.tokenizer, policy.grammar)
        solutions = WarmUp(policy, tokens).annotate(trees, search.seed)
        with atomic_write(path) as partial:
            solutions.to_json(partial)
        # Its memory is needed for training.
        del policy
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return datasets.Dataset.from_json(str(path), keep_in_memory=True)


def _extend(parser: Parser) -> None:
    parser.add_subclass_arguments(
        Policy, "policy", fail_untyped=False, default=LOAD_POLICY, help="what searches, by prompts"
    )
    add_training(parser)


COMMAND = Command(
    warmup,
    parts={
        "policy": LOAD_POLICY | {"init_args": {"prompted": True}},
        "searcher": {"class_path": "rftt.MCTS", "init_args": {"width": 2}},
        "verifier": {"class_path": "rftt.MathVerifier"},
    },
    defaults=TRAINING,
    skip=frozenset({"policy", "trainer", "tuner"}),
    extend=_extend,
    factories={"policy": frozenset()},
)
