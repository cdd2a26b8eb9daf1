"""Expert iteration: search, keep right paths, fine-tune on them, repeat."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, count, islice
from pathlib import Path
from random import Random
from typing import Final

import lightning
from attrs import asdict, evolve, field, frozen, validators
from safetensors.torch import load_model, save_model
from torch import nn

from rftt.files import atomic_write
from rftt.fingerprint import difference, fingerprint
from rftt.interfaces import Verifier
from rftt.learners.rollouts.judged import judged_rollouts
from rftt.learners.rollouts.replay import ReplayBuffer
from rftt.learners.supervised import SupervisedLearner
from rftt.policies.functional import FunctionalPolicy
from rftt.problems.problem import Problem
from rftt.search.budget import SearchConfig
from rftt.search.engine.engine import run_search
from rftt.search.engine.progress import progress
from rftt.search.searcher import Searcher
from rftt.training.loader import BatchLoader
from rftt.training.tuner import Tuner

_log = logging.getLogger(__name__)
_WEIGHTS: Final = "model.safetensors"


@frozen
class Round:
    """What one round found and learned.

    Attributes:
        number: from 0.
        problems: how many were searched.
        solved: how many of them had a right rollout.
        right: share of judged rollouts that were right, before the round's training.
        paths: right paths in the buffer, from this round and earlier ones.
        updates: optimizer steps.
        tokens: sampled ids.
        seconds: of search and training.
    """

    number: int
    problems: int
    solved: int
    right: float
    paths: int
    updates: int
    tokens: int
    seconds: float


def _trainer() -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=1, devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False
    )


@frozen(eq=False)
class ExpertIteration:
    """Lets a model learn from what its own searches found, until it is right often enough.

    A round searches the next problems with the present model, adds the right paths to a buffer, and
    fine-tunes the model on what the buffer holds. A model that is right in one of twenty tries gives
    reinforcement nothing to compare; this brings it there. Sources: STaR (arXiv 2203.14465), ReST-EM
    (arXiv 2312.06585); unlike them it goes on from the present weights, which costs less than to begin
    each round with the first ones.

    It ends when the share of right rollouts reaches ``target``; when the best share is ``patience``
    rounds old; or after ``max_rounds``. The share is that of problems as they are met: from the second
    pass over the problems on, it is one of problems that were learned from.

    Attributes:
        policy: samples from the model that is tuned, or from a copy, such as one of lower precision or
            vLLM's, that gets its weights after each round; at a temperature that gives different paths.
        searcher: the strategy.
        verifier: says which paths are right.
        config: the settings of each search, except that its seed is derived from ``config.seed`` and the
            number of the round.
        problems_per_round: how many problems a round searches; the order is a function of the seed.
        max_rounds: most rounds.
        target: share of right rollouts, from 0 to 1, at which it ends.
        patience: rounds without a better share, after which it ends.
        epochs: how often a round learns from each path of the buffer.
        batch_size: paths of an update.
        learning_rate: of AdamW, whose moments begin anew in each round.
        warmup_steps: updates of each round in which the learning rate grows linearly.
        capacity, per_problem: most paths of the buffer, and of one problem; the oldest go.
        micro_batch_tokens: as in :class:`~rftt.training.tuner.Tuner`.
        trainer: makes the Lightning trainer of a round, on one process.
    """

    policy: FunctionalPolicy
    searcher: Searcher
    verifier: Verifier
    config: SearchConfig
    problems_per_round: int = field(default=256, validator=validators.ge(1))
    max_rounds: int = field(default=10, validator=validators.ge(1))
    target: float = 0.5
    patience: int = field(default=2, validator=validators.ge(1))
    epochs: int = field(default=1, validator=validators.ge(1))
    batch_size: int = field(default=16, validator=validators.ge(1))
    learning_rate: float = 1e-4
    warmup_steps: int = 2
    capacity: int = 4096
    per_problem: int = 4
    micro_batch_tokens: int = 2048
    trainer: Callable[[], lightning.Trainer] = _trainer

    def run(
        self,
        model: nn.Module,
        problems: Sequence[Problem],
        directory: Path | str,
        *,
        show_progress: bool = False,
    ) -> list[Round]:
        """Tune ``model`` in place, and return the rounds.

        Each finished round is kept in ``directory``, with the weights of the last one. A run that was
        killed and is started again with the same arguments, and the model as it was at first, goes on
        from there, and within a round from its last recorded search. ``max_rounds``, ``target`` and
        ``patience`` may be others, so that a finished run can go on.

        Args:
            model: the model that is tuned, from which ``policy`` samples or whose weights it takes over.
            problems: with distinct ids and gold answers.
            directory: folder of this run.
            show_progress: whether a bar shows the completions of each search.

        Raises:
            ValueError: if there are no problems, ``directory`` is of another run, or the first
                ``patience`` rounds found no right path.
        """
        directory, problems = Path(directory), list(problems)
        if not problems:
            raise ValueError("there are no problems to learn from: give at least one")
        twice = [name for name, number in Counter(p.id for p in problems).items() if number > 1]
        if twice:
            raise ValueError(
                f"{len(twice)} ids are of several problems, {twice[0]!r} first: give each its own"
            )
        directory.mkdir(parents=True, exist_ok=True)
        self._refuse_other_settings(directory, problems)
        buffer = ReplayBuffer(self.capacity, self.per_problem, seed=self.config.seed)
        rounds = self._resume(directory, model, buffer)
        while not self.is_done(rounds):
            rounds.append(self._round(len(rounds), model, problems, buffer, directory, show_progress))
            _log.info("expert iteration: %s", rounds[-1])
        return rounds

    def is_done(self, rounds: Sequence[Round]) -> bool:
        """Return whether these rounds are all.

        Raises:
            ValueError: if the rounds so far gave nothing to learn from, and patience is at an end.
        """
        if not rounds:
            return False
        best = max(rounds, key=lambda r: r.right)
        is_late = len(rounds) - 1 - best.number >= self.patience
        if rounds[-1].paths == 0 and len(rounds) >= self.patience:
            raise ValueError(
                f"{len(rounds)} rounds of {self.problems_per_round} problems found no right path: "
                "search more rollouts, take easier problems, or warm the model up better"
            )
        return len(rounds) >= self.max_rounds or best.right >= self.target or is_late

    def _round(
        self, number: int, model: nn.Module, problems: Sequence[Problem], buffer: ReplayBuffer,
        directory: Path, show_progress: bool,
    ) -> Round:  # fmt: skip
        start, folder = time.monotonic(), directory / f"round_{number:03}"
        chosen = list(self._chosen(problems, number))
        completions = len(chosen) * (self.config.budget.rollouts or 0)
        label = f"expert iteration, round {number}"
        with progress(completions, label) if show_progress else nullcontext() as on_completions:
            trees = run_search(
                chosen, self.searcher, self.policy, self.verifier,
                evolve(self.config, seed=self.config.seed * 1_000_003 + number),
                directory=folder.with_suffix(".search"), on_completions=on_completions,
            )  # fmt: skip
        buffer.add(trees, self.policy)
        judged = [[r.score >= buffer.min_score for r in rollouts] for rollouts in judged_rollouts(trees)]
        updates = self._learn(number, model, buffer)
        self.policy.sampler.update(model)
        found = Round(
            number=number,
            problems=len(chosen),
            solved=sum(map(any, judged)),
            right=sum(map(sum, judged)) / max(1, sum(map(len, judged))),
            paths=len(buffer),
            updates=updates,
            tokens=sum(tree.tokens for tree in trees),
            seconds=round(time.monotonic() - start, 1),
        )
        with atomic_write(folder) as partial:
            partial.mkdir()
            save_model(model, str(partial / _WEIGHTS))
            state = {"round": asdict(found), "buffer": buffer.state_dict()}
            (partial / "round.json").write_text(json.dumps(state), encoding="utf-8")
        _forget_earlier(directory, folder)
        return found

    def _chosen(self, problems: Sequence[Problem], number: int) -> Iterator[Problem]:
        """Yield the problems of a round: pass after pass over all, each in an order of its own, and no
        problem twice in a round."""
        size = min(self.problems_per_round, len(problems))
        turn, offset = divmod(number * size, len(problems))
        orders = chain.from_iterable(self._order(problems, later) for later in count(turn))
        seen = set[str]()
        for problem in islice(orders, offset, None):
            if problem.id not in seen:
                seen.add(problem.id)
                yield problem
            if len(seen) == size:
                return

    def _order(self, problems: Sequence[Problem], turn: int) -> list[Problem]:
        order = list(problems)
        Random(f"expert iteration/{self.config.seed}/{turn}").shuffle(order)
        return order

    def _learn(self, number: int, model: nn.Module, buffer: ReplayBuffer) -> int:
        if not len(buffer):
            _log.warning(
                "expert iteration, round %d: no right path was found; nothing is learned", number
            )
            return 0
        seed = self.config.seed * 1_000_003 + number
        loader = BatchLoader(buffer.paths, self.batch_size, epochs=self.epochs, seed=seed)
        tuner = Tuner(
            model, SupervisedLearner(self.policy), learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps, micro_batch_tokens=self.micro_batch_tokens, seed=seed,
        )  # fmt: skip
        trainer = self.trainer()
        if trainer.world_size > 1:
            raise ValueError(
                f"expert iteration runs on one process, not {trainer.world_size}: pass a trainer with "
                "devices=1"
            )
        trainer.fit(tuner, loader)
        return len(loader)

    def _resume(self, directory: Path, model: nn.Module, buffer: ReplayBuffer) -> list[Round]:
        folders = sorted(path for path in directory.glob("round_*") if path.suffix == "")
        states = [json.loads((f / "round.json").read_text(encoding="utf-8")) for f in folders]
        if states:
            _forget_earlier(directory, folders[-1])
            load_model(model, str(folders[-1] / _WEIGHTS))
            buffer.load_state_dict(states[-1]["buffer"])
        self.policy.sampler.update(model)
        return [Round(**state["round"]) for state in states]

    def _refuse_other_settings(self, directory: Path, problems: Sequence[Problem]) -> None:
        path = directory / "settings.json"
        # The others say when to stop, and on what to run.
        others = ("max_rounds", "target", "patience", "trainer")
        settings = asdict(self, recurse=False, filter=lambda part, _: part.name not in others)
        mine = {"settings": fingerprint(settings), "problems": fingerprint(problems)}
        if path.exists() and (found := difference(json.loads(path.read_text(encoding="utf-8")), mine)):
            raise ValueError(f"{path}: {found}; choose another directory")
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(mine), encoding="utf-8")


def _forget_earlier(directory: Path, newest: Path) -> None:
    """Delete the searches of finished rounds, and the weights of all but the newest."""
    for folder in directory.glob("round_*"):
        if folder.name <= newest.with_suffix(".search").name:
            if folder.suffix == ".search":
                shutil.rmtree(folder)
            elif folder != newest:
                (folder / _WEIGHTS).unlink(missing_ok=True)
