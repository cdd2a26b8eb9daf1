"""The loop on nano: warm-up search, fine-tuning, reinforcement, evaluation.

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
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.demo.evaluator import Evaluator
from rftt.demo.measure import SHARES, measure, measure_share
from rftt.demo.models import functional_policy, prompted_policy
from rftt.demo.settings import WARM_UP_FUNCTIONS, DemoSettings
from rftt.evaluation.results import Evaluation
from rftt.files import atomic_write
from rftt.fingerprint import difference, fingerprint
from rftt.learners.credit.policy_weighted import policy_weighted
from rftt.learners.presets import ReinforcePlusPlusBaseline
from rftt.learners.reference import frozen_reference
from rftt.learners.supervised import SupervisedLearner
from rftt.nano.checkpoint import load_nano
from rftt.policies.loading import load_model
from rftt.policies.prompted import PromptedPolicy
from rftt.problems.arithmetic import Split, arithmetic_problems
from rftt.problems.problem import Problem
from rftt.search.engine.engine import run_search
from rftt.search.engine.progress import progress
from rftt.search.tree.storage import load_trees, save_trees
from rftt.search.tree.tree import SearchTree
from rftt.tokens.embeddings import initialize_token_embeddings
from rftt.tokens.functional import FunctionalTokens
from rftt.tokens.grammar import Grammar
from rftt.training.loader import BatchLoader
from rftt.training.tree_rollouts import TreeRollouts
from rftt.training.tuner import Tuner
from rftt.training.warmup import WarmUp
from rftt.verifiers.math import MathVerifier

ARMS: Final = ("prompted", "warmed_up", "reinforced")


class Demo:
    """One run of the loop in one output folder.

    Raises:
        ValueError: if the folder is of a run with other settings.
    """

    def __init__(self, output: Path, settings: DemoSettings) -> None:
        self.output = output
        self.settings = settings
        self.grammar = Grammar.default()
        self.verifier = MathVerifier()
        self.evaluator = Evaluator(output, settings)
        self.seconds: dict[str, float] = {}
        output.mkdir(parents=True, exist_ok=True)
        self._refuse_other_settings()

    def run(self) -> dict[str, dict[str, Evaluation]]:
        """Run the loop and return evaluations by model and run."""
        torch.set_float32_matmul_precision("high")
        lightning.seed_everything(self.settings.seed, verbose=False)
        with self.evaluator as evaluator:
            for share in range(SHARES):
                evaluator.submit("prompted", share)
            trees = self.search()
            self.fine_tune(trees)
            del trees
            for share in range(SHARES):
                evaluator.submit("warmed_up", share)
            self.reinforce()
            evaluator.submit("reinforced", 0)
            for share in range(1, SHARES):
                measure_share(self.output, self.settings, "reinforced", share)
        measured = {name: measure(self.output, self.settings, name) for name in ARMS}
        self.seconds |= {f"evaluation of {name}": m.seconds for name, m in measured.items()}
        return {name: m.runs for name, m in measured.items()}

    def _refuse_other_settings(self) -> None:
        path, mine = self.output / "settings.json", fingerprint(self.settings)
        if path.exists() and (found := difference(json.loads(path.read_text()), mine)):
            raise ValueError(f"{path}: {found}; choose another output folder")
        path.write_text(json.dumps(mine))

    def _problems(self, count: int, split: Split) -> list[Problem]:
        return arithmetic_problems(count, split, seed=self.settings.seed)

    # -- stages -----------------------------------------------------------------------------------

    def search(self) -> list[SearchTree]:
        """Search the warm-up problems by prompts, and return their trees."""
        path, settings = self.output / "warm_up_trees.jsonl", self.settings
        if path.exists():
            return load_trees(path)
        problems = self._problems(settings.warm_up_problems, "warmup")
        completions = len(problems) * settings.rollouts
        with self._timed("warm-up search"), progress(completions, "warm-up search") as on_completions:
            trees = run_search(
                problems, settings.searcher, self._warm_up_policy(), self.verifier,
                settings.search(settings.rollouts), on_completions=on_completions,
            )  # fmt: skip
        save_trees(path, trees)
        return trees

    def _warm_up_policy(self) -> PromptedPolicy:
        return prompted_policy(self.settings, WARM_UP_FUNCTIONS, self.settings.warm_up_temperature)

    def fine_tune(self, trees: Sequence[SearchTree]) -> None:
        """Annotate trees and tune nano on them; leaves the warmed-up model."""
        folder, settings = self.output / "warmed_up", self.settings
        if folder.exists():
            return
        with self._timed("warm-up fine-tuning"):
            model, tokenizer = load_nano()
            tokens = FunctionalTokens.add(tokenizer, self.grammar)
            initialize_token_embeddings(model, tokenizer, tokens)
            data = WarmUp(self._warm_up_policy(), tokens).annotate(trees, settings.seed)
            data.to_json(self.output / "warm_up.jsonl")
            policy = functional_policy(settings, model, tokenizer, settings.temperature)
            learner = SupervisedLearner(policy)
            lightning.seed_everything(settings.seed, verbose=False)
            loader = BatchLoader(
                data.to_list(),
                settings.warm_up_batch,
                epochs=settings.warm_up_epochs,
                seed=settings.seed,
            )
            tuner = Tuner(model, learner, learning_rate=settings.warm_up_rate, decay=True)
            with self.evaluator.all_threads():
                self._fit("warm_up", tuner, loader)
            _save(model, tokenizer, folder)

    def reinforce(self) -> None:
        """Search over functional tokens and learn by REINFORCE++; leaves the reinforced model."""
        folder, settings = self.output / "reinforced", self.settings
        if folder.exists():
            return
        model, tokenizer = load_model(self.output / "warmed_up")
        policy = functional_policy(settings, model, tokenizer, settings.reinforce_temperature)
        reference = frozen_reference(model, tokenizer, policy.tokens)
        learner = ReinforcePlusPlusBaseline(
            policy, reference, kl_coef=settings.kl_coef, credit=policy_weighted, micro_batch_tokens=2048
        )
        tree_rollouts = TreeRollouts(
            policy, settings.searcher, self.verifier, settings.search(settings.rollouts)
        )
        problems = self._problems(settings.updates * settings.problems_per_update, "reinforce")
        loader = BatchLoader(problems, settings.problems_per_update, shuffle=False)
        trees_path = self.output / "reinforce_trees.jsonl"
        tuner = Tuner(
            model, learner, tree_rollouts=tree_rollouts, learning_rate=settings.reinforce_rate,
            decay=True, warmup_steps=3, on_trees=lambda trees: save_trees(trees_path, trees),
        )  # fmt: skip
        with self._timed("reinforcement"):
            self._fit("reinforce", tuner, loader)
            _save(model, tokenizer, folder)

    def _fit(self, name: str, tuner: Tuner, loader: BatchLoader[Any]) -> None:
        trainer = lightning.Trainer(
            max_epochs=1,
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


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    with atomic_write(folder) as partial:
        tokenizer.save_pretrained(partial)
        model.save_pretrained(partial)
