"""A directory that a search writes each settled round to, so that a killed search loses nothing.

It holds ``search.json``, which says what is searched and by whom, and ``rounds.jsonl``, one line a
settled round: for each tree what the strategy asked, and all that chance or a model decided. Everything
else on a tree follows from those, so a search that is started again goes through the recorded rounds
without a model, and on from there. What it asks is compared with what was asked: a record is proof that
it is of the same search.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import attrs
from attrs import frozen

from rftt.files import atomic_write
from rftt.fingerprint import difference, fingerprint
from rftt.interfaces import Policy, Step, Verdict, Verifier
from rftt.search.budget import SearchConfig
from rftt.search.engine.tree_round import TreeRound
from rftt.search.searcher import Expansion, Searcher
from rftt.search.tree.storage import step_from_json, step_to_json, verdict_from_json
from rftt.search.tree.tree import SearchTree


@frozen
class TreeRecord:
    """One tree's round, as it is recorded.

    Attributes:
        problem: the problem's id.
        round: the tree's ``rounds`` when the strategy was asked.
        asked: its expansions, as JSON-able data.
        priors: by node, the priors that were filled in for the ask.
        policy_calls: batched policy calls of the round.
        completions: the steps of each completion.
        cut: places of completions that the budget cut short.
        verdicts: of the completions that were judged, in order.
    """

    problem: str
    round: int
    asked: list[Any]
    priors: Mapping[int, Mapping[str, float]]
    policy_calls: int
    completions: tuple[tuple[Step, ...], ...]
    cut: tuple[int, ...]
    verdicts: tuple[Verdict, ...]

    @staticmethod
    def of(tree_round: TreeRound, verdicts: Sequence[Verdict]) -> TreeRecord:
        """Make the record of a round whose completions are there."""
        tree = tree_round.tree
        steps = tree.step
        return TreeRecord(
            problem=tree.problem.id,
            round=tree_round.number,
            asked=[_asked(expansion) for expansion in tree_round.expansions],
            priors=tree_round.priors,
            policy_calls=tree.rounds - tree_round.number,
            completions=tuple(
                tuple(step for node in nodes if (step := steps[node]) is not None)
                for nodes in tree_round.completions
            ),
            cut=tuple(sorted(tree_round.cut)),
            verdicts=tuple(verdicts),
        )

    def check_asked(self, tree: SearchTree, expansions: Sequence[Expansion]) -> None:
        """Raise ``ValueError`` at the first expansion that differs from what was recorded."""
        if tree.rounds != self.round:
            raise ValueError(
                f"the record of {self.problem!r} goes on with round {self.round}, but the tree is in "
                f"round {tree.rounds}: choose another directory"
            )
        asked = [_asked(expansion) for expansion in expansions]
        for place in range(max(len(asked), len(self.asked))):
            now = asked[place] if place < len(asked) else None
            then = self.asked[place] if place < len(self.asked) else None
            if now != then:
                raise ValueError(
                    f"round {self.round} of {self.problem!r}: the strategy asks for {_in_words(now)}, "
                    f"and the record has {_in_words(then)}; its code or what it depends on has "
                    "changed, so choose another directory"
                )


def _asked(expansion: Expansion) -> list[Any]:
    return [
        expansion.node, expansion.count, expansion.function, expansion.until, list(expansion.prefix),
    ]  # fmt: skip


def _in_words(asked: list[Any] | None) -> str:
    if asked is None:
        return "nothing"
    node, count, function, until, prefix = asked
    what = "any function" if function is None else f"<{function}>"
    after = f" after {len(prefix)} forced ids" if prefix else ""
    return f"{count} at node {node} ({what}{after}, until {until})"


class RunDirectory:
    """The record of one search. Enter it to lock it for this process.

    Args:
        directory: is made if it is missing.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._rounds = self.directory / "rounds.jsonl"
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        """Lock the directory.

        Raises:
            BlockingIOError: if another process has locked it.
        """
        lock = (self.directory / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise BlockingIOError(
                f"{self.directory}: another process (pid {holder}) is searching in this directory; "
                "wait for it, or choose another directory"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            # The system gives the lock back, also when the process is killed.
            self._lock.close()
            self._lock = None

    def check_identity(
        self,
        trees: Sequence[SearchTree],
        searcher: Searcher,
        policy: Policy,
        verifier: Verifier,
        config: SearchConfig,
    ) -> None:
        """Write down what is searched and by whom, or compare it with what is written.

        Raises:
            ValueError: naming the first part that differs.
        """
        budget = attrs.evolve(config.budget, seconds=None)
        mine = {
            "searcher": fingerprint(searcher),
            "policy": fingerprint(policy),
            "verifier": fingerprint(verifier),
            # What only says how fast the trees grow may change.
            "config": fingerprint(
                attrs.evolve(config, budget=budget, max_concurrent_trees=None, streaming=False)
            ),
            "problems": {tree.problem.id: _digest(tree) for tree in trees},
        }
        mine = json.loads(json.dumps(mine))
        path = self.directory / "search.json"
        if not path.exists():
            with atomic_write(path) as partial:
                partial.write_text(json.dumps(mine, indent=1), encoding="utf-8")
            return
        held = json.loads(path.read_text(encoding="utf-8"))
        for part, value in mine.items():
            if found := difference(held.get(part), value, part):
                raise ValueError(
                    f"{path} is of a search with another {part}: {found}; choose another directory"
                )

    def rounds(self) -> Iterator[list[TreeRecord]]:
        """Yield the rounds so far. A last line that was cut short by a kill is taken off the file.

        Raises:
            ValueError: naming a line, other than the last, that cannot be read.
        """
        if not self._rounds.exists():
            return
        with self._rounds.open("rb+") as file:
            start = 0
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    file.truncate(start)
                    return
                start += len(line)
                try:
                    records = [_record_from_json(data) for data in json.loads(line)]
                except (KeyError, TypeError, ValueError) as error:
                    raise ValueError(f"{self._rounds}, line {number}: not a round: {error!r}") from error
                yield records

    def append(self, records: Sequence[TreeRecord]) -> None:
        """Add a settled round."""
        data = [_record_to_json(record) for record in records]
        line = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        with self._rounds.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _digest(tree: SearchTree) -> str:
    """Tell problems apart by their texts, and trees by how far they have grown."""
    problem = tree.problem
    grown = [len(tree), tree.rounds, tree.rollouts]
    text = json.dumps([problem.question, problem.answer, problem.metadata, *grown], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _record_to_json(record: TreeRecord) -> dict[str, Any]:
    completions = [[step_to_json(step) for step in steps] for steps in record.completions]
    return {**attrs.asdict(attrs.evolve(record, completions=())), "completions": completions}


def _record_from_json(data: Mapping[str, Any]) -> TreeRecord:
    return TreeRecord(
        problem=data["problem"],
        round=data["round"],
        asked=data["asked"],
        priors={int(node): prior for node, prior in data["priors"].items()},
        policy_calls=data["policy_calls"],
        completions=tuple(
            tuple(step_from_json(step) for step in steps) for steps in data["completions"]
        ),
        cut=tuple(data["cut"]),
        verdicts=tuple(verdict_from_json(verdict) for verdict in data["verdicts"]),
    )
