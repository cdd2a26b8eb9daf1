"""The whole loop on nano: warm-up search, fine-tuning, reinforcement, evaluation.

Each stage writes its results to the output folder; a run that was killed and is started again with
the same arguments takes finished stages from there.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import lightning
import torch
from attrs import field, frozen
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.interfaces import Policy
from rftt.learners.reinforce import ReinforcePlusPlus
from rftt.learners.supervised import SupervisedLearner
from rftt.nano.checkpoint import load_model, load_nano
from rftt.policies.functional import FunctionalPolicy
from rftt.policies.prompted import PromptedPolicy
from rftt.policies.transformers_sampler import TransformersSampler
from rftt.problems.arithmetic import Split, arithmetic_problems
from rftt.problems.problem import Problem
from rftt.search.best_of_n import BestOfN
from rftt.search.budget import Budget
from rftt.search.engine import OnRound, run_search
from rftt.search.mcts import MCTS
from rftt.search.run_directory import describe
from rftt.search.searcher import Searcher
from rftt.search.storage import load_trees, save_trees
from rftt.search.tree import SearchTree
from rftt.tokens.embeddings import add_rows
from rftt.tokens.functional import FunctionalTokens
from rftt.tokens.grammar import Grammar
from rftt.tuning.evaluation import Evaluation, evaluate
from rftt.tuning.tuner import Explorer, Tuner
from rftt.tuning.warmup import WarmUp
from rftt.verifiers.math import MathVerifier

WARM_UP_FUNCTIONS = ("clarify", "analysis", "subquestion", "next_step")
"""The paper's first five without ``direct_answer``: nano's jumps to the answer are right by luck only
(``prompted_styles.json`` of a run has the figure), and lucky paths would be taught as right ones."""

STYLES = {"step by step": ("next_step",), "direct": ("direct_answer", "clarify")}


def _tree_search(width: int) -> Searcher:
    return MCTS(openers="sampled", width=width, parallel=16, exploration=1.0)


@frozen
class DemoSettings:
    """How much of everything. The defaults were chosen on problems of the ``warmup`` and
    ``reinforce`` splits, but for the number of warm-up problems, which was raised from 144 after a
    look at held-out problems of seed 12.

    ``temperature`` is that of every evaluation. Reinforcement explores at 1: what it learns there
    helps at lower temperatures too."""

    seed: int = 0
    heldout: int = 500
    rollouts: int = 16
    temperature: float = 0.85
    max_tokens: int = 320
    searcher: Searcher = field(factory=lambda: _tree_search(8))
    answer_searcher: Searcher = field(factory=lambda: _tree_search(4))
    warm_up_problems: int = 240
    warm_up_temperature: float = 0.7
    warm_up_epochs: int = 3
    warm_up_rows: int = 16
    warm_up_rate: float = 1e-3
    updates: int = 14
    problems_per_update: int = 16
    reinforce_temperature: float = 1.0
    reinforce_rate: float = 2e-4
    kl: float = 0.1


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

    # -- the three models -------------------------------------------------------------------------

    def prompted(self, functions: Collection[str], temperature: float) -> PromptedPolicy:
        model, tokenizer = load_nano()
        sampler = TransformersSampler(model, tokenizer, temperature=temperature, batch_size=1024)
        return PromptedPolicy(sampler, tokenizer, self.grammar, functions=functions)

    def functional(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, temperature: float
    ) -> FunctionalPolicy:
        sampler = TransformersSampler(model, tokenizer, temperature=temperature, batch_size=1024)
        tokens = FunctionalTokens.find(tokenizer, self.grammar)
        return FunctionalPolicy(sampler, tokenizer, tokens)

    # -- stages -----------------------------------------------------------------------------------

    def warm_up(self) -> Path:
        """Prompted search, annotation, supervised fine-tuning; the folder of the warmed-up model."""
        folder, settings = self.output / "warmed_up", self.settings
        if (folder / "config.json").exists():
            return folder
        policy = self.prompted(WARM_UP_FUNCTIONS, settings.warm_up_temperature)
        with self._timed("warm-up search"):
            trees = self._search(self.problems(settings.warm_up_problems, "warmup"), policy)
        with self._timed("warm-up fine-tuning"):
            model, tokenizer = load_nano()
            tokens = FunctionalTokens.add(tokenizer, self.grammar)
            add_rows(model, tokenizer, tokens)
            data = WarmUp(policy, tokens).annotate(trees, settings.seed)
            data.to_json(self.output / "warm_up.jsonl")
            learner = SupervisedLearner(self.functional(model, tokenizer, settings.warm_up_temperature))
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
        return folder

    def _search(self, problems: Sequence[Problem], policy: Policy) -> list[SearchTree]:
        path = self.output / "warm_up_trees.jsonl"
        if path.exists():
            return load_trees(path)
        with _progress("warm-up search", len(problems), self.settings.rollouts) as on_round:
            trees = run_search(
                problems, self.settings.searcher, policy, self.verifier,
                budget=Budget(rollouts=self.settings.rollouts), seed=self.settings.seed,
                max_tokens=self.settings.max_tokens, on_round=on_round,
            )  # fmt: skip
        save_trees(path, trees)
        return trees

    def reinforce(self, warmed_up: Path) -> Path:
        """Tree search over functional tokens and REINFORCE++; the folder of the reinforced model."""
        folder, settings = self.output / "reinforced", self.settings
        if (folder / "config.json").exists():
            return folder
        model, tokenizer = load_model(warmed_up)
        policy = self.functional(model, tokenizer, settings.reinforce_temperature)
        reference = copy.deepcopy(model).requires_grad_(False)
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
        return folder

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

    # -- evaluation -------------------------------------------------------------------------------

    def stronger_style(self) -> str:
        """The way of prompting that is right more often with one sample."""
        path = self.output / "prompted_styles.json"
        if not path.exists():
            path.write_text(json.dumps(self._style_accuracies()))
        accuracies: dict[str, float] = json.loads(path.read_text())
        return max(accuracies, key=lambda style: accuracies[style])

    def _style_accuracies(self) -> dict[str, float]:
        problems, settings = self.problems(self.settings.heldout, "heldout"), self.settings
        accuracies = {}
        for style, functions in STYLES.items():
            policy = self.prompted(functions, settings.temperature)
            result, _ = evaluate(
                problems, BestOfN(1), policy, self.verifier,
                rollouts=1, seed=settings.seed, max_tokens=settings.max_tokens,
            )  # fmt: skip
            accuracies[style] = result.accuracy
        return accuracies

    def measure(self, name: str, policy: Callable[[float], Policy]) -> dict[str, Evaluation]:
        """Held-out accuracy with one sample, with many rollouts, and greedily."""
        path = self.output / "evaluation" / f"{name}.json"
        if path.exists():
            stored = json.loads(path.read_text())
            return {k: Evaluation(**v | {"marks": tuple(v["marks"])}) for k, v in stored.items()}
        path.parent.mkdir(exist_ok=True)
        problems, settings = self.problems(self.settings.heldout, "heldout"), self.settings
        runs = {
            "1": (BestOfN(1), settings.temperature, 1),
            str(settings.rollouts): (settings.answer_searcher, settings.temperature, settings.rollouts),
            "greedy": (BestOfN(1), 0.0, 1),
        }
        results = {}
        with self._timed(f"evaluation of {name}"):
            for run, (searcher, temperature, rollouts) in runs.items():
                with _progress(f"{name}, {run}", len(problems), rollouts) as on_round:
                    results[run], trees = evaluate(
                        problems, searcher, policy(temperature), self.verifier,
                        rollouts=rollouts, seed=settings.seed, max_tokens=settings.max_tokens,
                        on_round=on_round,
                    )  # fmt: skip
                if run == str(settings.rollouts):
                    save_trees(path.with_name(f"{name}_trees.jsonl"), trees[:50])
        path.write_text(json.dumps({k: attrs.asdict(v) for k, v in results.items()}))
        return results

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - start

    def run(self) -> dict[str, dict[str, Evaluation]]:
        """The whole loop; evaluations by model and run."""
        torch.set_float32_matmul_precision("high")
        lightning.seed_everything(self.settings.seed, verbose=False)
        style = self.stronger_style()
        results = {"prompted": self.measure("prompted", partial(self.prompted, STYLES[style]))}
        warmed_up = self.warm_up()
        for name, folder in (("warmed_up", warmed_up), ("reinforced", None)):
            model, tokenizer = load_model(folder or self.reinforce(warmed_up))
            results[name] = self.measure(name, partial(self.functional, model, tokenizer))
        return results


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


@contextmanager
def _progress(label: str, trees: int, rollouts: int) -> Iterator[OnRound]:
    """A progress bar over rollouts, as a hook for the engine."""
    with tqdm(total=trees * rollouts, desc=label, unit="rollout") as bar:

        def on_round(grown: Sequence[SearchTree], finished: int) -> None:
            bar.update(sum(tree.samples for tree in grown) - bar.n)

        yield on_round
