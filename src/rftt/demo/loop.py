"""The whole loop on nano: warm-up search, fine-tuning, reinforcement, evaluation.

Each stage writes its results to the output folder; a run that was killed and is started again with
the same arguments takes finished stages from there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lightning
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.demo.measure import functional, measure, measured_beside, prompted
from rftt.demo.settings import WARM_UP_FUNCTIONS, DemoSettings
from rftt.learners.reference import frozen_reference
from rftt.learners.reinforce import ReinforcePlusPlus
from rftt.learners.supervised import SupervisedLearner
from rftt.nano.checkpoint import load_nano
from rftt.policies.loading import load_model
from rftt.policies.prompted import PromptedPolicy
from rftt.problems.arithmetic import Split, arithmetic_problems
from rftt.problems.problem import Problem
from rftt.search.budget import Budget
from rftt.search.engine import run_search
from rftt.search.progress import progress
from rftt.search.run_directory import describe
from rftt.search.storage import load_trees, save_trees, whole
from rftt.search.tree import SearchTree
from rftt.tokens.embeddings import add_rows
from rftt.tokens.functional import FunctionalTokens
from rftt.tokens.grammar import Grammar
from rftt.tuning.evaluation import Evaluation
from rftt.tuning.tuner import Explorer, Tuner
from rftt.tuning.warmup import WarmUp
from rftt.verifiers.math import MathVerifier

ARMS: Final = ("prompted", "warmed_up", "reinforced")


class Demo:
    """One run of the loop in one output folder."""

    def __init__(self, output: Path, settings: DemoSettings) -> None:
        self.output = output
        self.settings = settings
        self.grammar = Grammar.default()
        self.verifier = MathVerifier()
        self.seconds: dict[str, float] = {}
        output.mkdir(parents=True, exist_ok=True)
        self._refuse_other_settings()

    def _refuse_other_settings(self) -> None:
        path, mine = self.output / "settings.json", describe(self.settings)
        if path.exists() and json.loads(path.read_text()) != mine:
            raise ValueError(f"{path} is of a run with other settings: choose another output folder")
        path.write_text(json.dumps(mine))

    def problems(self, count: int, split: Split) -> list[Problem]:
        return arithmetic_problems(count, split, seed=self.settings.seed)

    # -- stages -----------------------------------------------------------------------------------

    def search(self) -> list[SearchTree]:
        """Warm-up search by prompts."""
        path, settings = self.output / "warm_up_trees.jsonl", self.settings
        if path.exists():
            return load_trees(path)
        problems = self.problems(settings.warm_up_problems, "warmup")
        rollouts = len(problems) * settings.rollouts
        with self._timed("warm-up search"), progress(rollouts, "warm-up search") as on_round:
            trees = run_search(
                problems, settings.searcher, self._warm_up_policy(), self.verifier,
                budget=Budget(rollouts=settings.rollouts), seed=settings.seed,
                max_tokens=settings.max_tokens, on_round=on_round,
            )  # fmt: skip
        save_trees(path, trees)
        return trees

    def _warm_up_policy(self) -> PromptedPolicy:
        return prompted(WARM_UP_FUNCTIONS, self.settings.warm_up_temperature)

    def fine_tune(self, trees: Sequence[SearchTree]) -> None:
        """Annotation and supervised fine-tuning; leaves the warmed-up model."""
        folder, settings = self.output / "warmed_up", self.settings
        if folder.exists():
            return
        with self._timed("warm-up fine-tuning"):
            model, tokenizer = load_nano()
            tokens = FunctionalTokens.add(tokenizer, self.grammar)
            add_rows(model, tokenizer, tokens)
            data = WarmUp(self._warm_up_policy(), tokens).annotate(trees, settings.seed)
            data.to_json(self.output / "warm_up.jsonl")
            learner = SupervisedLearner(functional(model, tokenizer, settings.temperature))
            lightning.seed_everything(settings.seed, verbose=False)
            loader = DataLoader(
                data.to_list(),
                batch_size=settings.warm_up_rows,
                shuffle=True,
                collate_fn=learner.collate,
            )
            tuner = Tuner(model, learner, learning_rate=settings.warm_up_rate, decay=True)
            self._fit("warm_up", tuner, loader, settings.warm_up_epochs)
            _save(model, tokenizer, folder)

    def reinforce(self) -> None:
        """Tree search over functional tokens and REINFORCE++; leaves the reinforced model."""
        folder, settings = self.output / "reinforced", self.settings
        if folder.exists():
            return
        model, tokenizer = load_model(self.output / "warmed_up")
        policy = functional(model, tokenizer, settings.reinforce_temperature)
        reference = frozen_reference(model, tokenizer, policy.tokens)
        learner = ReinforcePlusPlus(policy, reference, kl=settings.kl, group_baseline=True)
        explorer = Explorer(
            policy, settings.searcher, self.verifier,
            Budget(rollouts=settings.rollouts), seed=settings.seed, max_tokens=settings.max_tokens,
        )  # fmt: skip
        problems = self.problems(settings.updates * settings.problems_per_update, "reinforce")
        loader: DataLoader[Any] = DataLoader(
            problems,  # type: ignore[arg-type]  # a list is a map-style data set
            batch_size=settings.problems_per_update,
            collate_fn=list,
        )
        trees_path = self.output / "reinforce_trees.jsonl"
        tuner = Tuner(
            model, learner, explorer=explorer, learning_rate=settings.reinforce_rate,
            decay=True, warm_steps=3,
            on_trees=lambda trees: save_trees(trees_path, trees),
        )  # fmt: skip
        with self._timed("reinforcement"):
            self._fit("reinforce", tuner, loader, 1)
            _save(model, tokenizer, folder)

    def _fit(self, name: str, tuner: Tuner, loader: DataLoader[Any], epochs: int) -> None:
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="auto",
            devices=1,
            logger=CSVLogger(self.output / "metrics", name=name, version=""),
            callbacks=[TQDMProgressBar()],
            enable_checkpointing=False,
            enable_model_summary=False,
            log_every_n_steps=1,
        )
        trainer.fit(tuner, loader)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - start

    def run(self) -> dict[str, dict[str, Evaluation]]:
        """The whole loop; evaluations by model and run."""
        torch.set_float32_matmul_precision("high")
        lightning.seed_everything(self.settings.seed, verbose=False)
        with measured_beside(self.output, self.settings, "prompted"):
            trees = self.search()
        self.fine_tune(trees)
        with measured_beside(self.output, self.settings, "warmed_up"):
            self.reinforce()
        measured = {name: measure(self.output, self.settings, name) for name in ARMS}
        self.seconds |= {f"evaluation of {name}": m.seconds for name, m in measured.items()}
        return {name: m.runs for name, m in measured.items()}


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    with whole(folder) as half:
        tokenizer.save_pretrained(half)
        model.save_pretrained(half)
