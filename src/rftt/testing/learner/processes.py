"""The promise that several processes learn what one learns."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from rftt.search.tree.tree import SearchTree
from rftt.testing.learner.measured import Measured, difference, measure, total
from rftt.testing.learner.promises import ProcessesBroken
from rftt.testing.learner.workbench import Build, Workbench


def check_processes(bench: Workbench, processes: int) -> None:
    """Check that the gradients of several processes add up to that of one.

    Raises:
        TypeError: if what makes the learner cannot be sent to another process.
    """
    try:
        pickle.dumps(bench.build)
    except Exception as error:
        raise TypeError(
            f"build: {bench.build!r} is made again in other processes, and cannot be pickled ({error}); "
            "give a function that can be imported, or processes=1"
        ) from error
    learner, model = bench.learner(off_policy=True), bench.model(off_policy=True)
    alone = measure(learner, model, bench.batch(learner, model, bench.trees()))
    with TemporaryDirectory() as directory:
        arguments = (processes, directory, bench.build, bench.seed)
        spawn(_run, arguments, nprocs=processes)
        parts = [
            Measured(**torch.load(Path(directory) / f"{rank}.pt", weights_only=True))
            for rank in range(processes)
        ]
    if what := difference(total(parts), alone, with_metrics=True):
        sizes = [len(part) for part in _shares(bench.trees(), processes)]
        raise ProcessesBroken(f"in {processes} processes with {sizes} trees each, {what}")


def _shares(trees: Sequence[SearchTree], processes: int) -> list[list[SearchTree]]:
    """Return the trees of each process. The first has most of them, and of three or more the last has
    none."""
    shares: list[list[SearchTree]] = [[] for _ in range(processes)]
    having = max(2, processes - 1)
    for number, tree in enumerate(trees):
        shares[number % having if number < 2 * having else 0].append(tree)
    return shares


def _run(rank: int, processes: int, directory: str, build: Build, seed: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{directory}/meeting", rank=rank, world_size=processes
    )
    try:
        bench = Workbench(build, seed)
        learner, model = bench.learner(off_policy=True), bench.model(off_policy=True)
        trees = _shares(bench.trees(), processes)[rank]
        found = measure(learner, model, bench.batch(learner, model, trees))
        held = {"loss": found.loss, "gradients": dict(found.gradients), "metrics": dict(found.metrics)}
        torch.save(held, Path(directory) / f"{rank}.pt")
        distributed.barrier()
    finally:
        distributed.destroy_process_group()
