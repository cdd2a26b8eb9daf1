"""Fine-tuning in a folder: what the trainer is given, how a run goes on, how a model is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.cli.parser import Parser
from rftt.files import atomic_write
from rftt.tokens.embeddings import trainable_token_indices
from rftt.tokens.functional import FunctionalTokens
from rftt.training.loader import BatchLoader
from rftt.training.sharding import full_state_dict
from rftt.training.tuner import Tuner

MODEL: Final = "model"
"""The folder of a finished run that holds its model."""


TRAINING: Final = {
    "trainer.devices": 1,
    "trainer.log_every_n_steps": 1,
    "trainer.enable_model_summary": False,
}
"""Where the defaults are others than Lightning's."""


def add_training(parser: Parser) -> None:
    """Add the settings of Lightning's trainer and of the tuner, as groups."""
    # A loader holds all epochs of a run in one of Lightning's.
    parser.add_class_arguments(
        lightning.Trainer, "trainer", instantiate=False, fail_untyped=False, skip={"max_epochs"}
    )
    parser.add_class_arguments(
        Tuner, "tuner", instantiate=False, skip={"model", "learner", "tree_rollouts", "on_trees"}
    )


def with_adapter(
    model: PreTrainedModel, tokens: FunctionalTokens, rank: int | None
) -> PreTrainedModel | PeftModel:
    """Return the model with a new adapter of a rank on all its linear layers, which it is tuned by; with
    no rank, as it is."""
    if rank is None:
        return model
    rows = trainable_token_indices(model, tokens)
    return get_peft_model(
        model, LoraConfig(r=rank, target_modules="all-linear", trainable_token_indices=rows)
    )


def fit(
    tuner: Tuner, loader: BatchLoader[Any], tokenizer: PreTrainedTokenizerBase, output: Path,
    trainer: Mapping[str, Any], checkpoint_every: int,
) -> None:  # fmt: skip
    """Tune from the last checkpoint in a folder, if there is one, and leave the model there.

    Args:
        tuner, loader: what is tuned, and with what.
        tokenizer: kept with the model.
        output: the folder.
        trainer: settings of Lightning's trainer; metrics go to a CSV file unless it has a logger.
        checkpoint_every: updates between two checkpoints.

    Raises:
        KeyboardInterrupt: if it was stopped.
    """
    checkpoints = ModelCheckpoint(
        output / "checkpoints", save_last=True, every_n_train_steps=checkpoint_every
    )
    given = trainer.get("callbacks") or []
    callbacks = [*(given if isinstance(given, list) else [given]), checkpoints]
    logger = trainer.get("logger")
    logger = CSVLogger(output, name="metrics") if logger is None else logger
    driver = lightning.Trainer(
        **dict(trainer) | {"max_epochs": 1, "callbacks": callbacks, "logger": logger}
    )
    last = output / "checkpoints" / "last.ckpt"
    try:
        driver.fit(tuner, loader, ckpt_path=last if last.exists() else None, weights_only=True)
    except SystemExit as stopped:
        # What Lightning makes of Ctrl-C.
        raise KeyboardInterrupt from stopped
    _keep(tuner.model, tokenizer, output / MODEL, driver)


def _keep(
    model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, driver: lightning.Trainer
) -> None:
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    # Every process must take part where weights are sharded.
    weights = full_state_dict(model)
    if driver.is_global_zero:
        with atomic_write(folder) as partial:
            tokenizer.save_pretrained(partial)
            model.save_pretrained(partial, state_dict=weights)
        print(f"the model is in {folder}")
