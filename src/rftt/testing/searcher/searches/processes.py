"""Searches in other processes: what depends on ``hash``, or on what was searched before.

Two processes, with one hash seed that is not this process's, search the same problems, the one first to
last and the other last to first. Where they differ, something is left of the problems before: on the
instance, on the class or in the module. Where they agree, and a search in this process differs, trees
depend on the process.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
from typing import Any, Final

from rftt.search.tree.storage import tree_from_json
from rftt.testing.copies import difference
from rftt.testing.searcher.bench import Bench
from rftt.testing.searcher.calls.forwarding import CostlyError
from rftt.testing.searcher.calls.scenario import tree_text
from rftt.testing.searcher.promises import (
    ContractViolation,
    SeedBroken,
    StateBroken,
    TimeBroken,
)
from rftt.testing.searcher.searches import child

_log = logging.getLogger(__name__)

_CODE: Final = f"from {child.__name__} import main; main()"
_SECONDS: Final = 60.0
"""Most wall time of another process, starting included."""
_MAIN: Final = "__main__"


def check_processes(bench: Bench) -> None:
    """Raise the promise that is broken if another process, or what was searched before, leads to other
    trees.

    A strategy that another process cannot import is not tried there; that is logged.
    """
    order = list(range(child.COUNT))
    try:
        jobs = [_pickled(bench, order), _pickled(bench, order[::-1])]
        first, second = _run(jobs)
    except _ClosedError as error:
        reason = f"{type(bench.searcher).__name__} cannot be sent to another process: {error}"
        _log.warning(
            "%r was tried in this process alone: %s; define the class at the top of a module that can "
            "be imported", SeedBroken.promise, reason,
        )  # fmt: skip
        return
    for number in order:
        before = ", ".join(map(str, order[:number])) or "nothing"
        after = ", ".join(map(str, order[:number:-1])) or "nothing"
        what = (
            f"problem {number} searched in a process that has searched {before}, and in one that has "
            f"searched {after}"
        )
        _compare(bench, first[str(number)], second[str(number)], StateBroken, what)
    for number in order:
        try:
            here = child.search_known(bench.fresh(), number, bench.settings.rewards)
        except Exception as error:
            here = {"error": repr(error)}
        what = f"problem {number} searched in this process, and in one with another PYTHONHASHSEED"
        _compare(bench, here, first[str(number)], SeedBroken, what)


class _ClosedError(Exception):
    """Another process cannot have the strategy."""


def _pickled(bench: Bench, order: list[int]) -> bytes:
    if type(bench.searcher).__module__ == _MAIN:
        raise _ClosedError("its class is in __main__")
    try:
        return pickle.dumps((bench.fresh().searcher, order, bench.settings.rewards))
    except Exception as error:
        raise _ClosedError(f"pickling it raised {error!r}") from error


def _run(jobs: list[bytes]) -> list[dict[str, Any]]:
    """Run jobs in processes of their own, side by side."""
    here = os.environ.get("PYTHONHASHSEED", "")
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "1" if here != "1" else "2",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _CODE], env=environment, stdin=pipe, stdout=pipe, stderr=pipe
        )
        for _ in jobs
    ]
    try:
        found = []
        for process, job in zip(processes, jobs, strict=True):
            out, errors = process.communicate(job, timeout=_SECONDS)
            if process.returncode:
                words = errors.decode(errors="replace").strip().splitlines()
                raise _ClosedError(words[-1] if words else f"exit status {process.returncode}")
            found.append(json.loads(out))
        return found
    except subprocess.TimeoutExpired:
        what = f"three searches of 24 rollouts in another process had not ended after {_SECONDS:g} s"
        raise CostlyError(TimeBroken(what)) from None
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _compare(
    bench: Bench, one: dict[str, Any], other: dict[str, Any], broken: type[ContractViolation], what: str
) -> None:
    if one == other or broken.promise in bench.skipped:
        return
    raised = [held.get("error") for held in (one, other)]
    if all(raised):
        # What raises everywhere is found elsewhere.
        return
    if any(raised):
        raise broken(f"{what}: the one raised {raised[0]}, the other {raised[1]}")
    a, b = tree_from_json(one), tree_from_json(other)
    scenario = f"The one:\n{tree_text(a)}\n\nThe other:\n{tree_text(b)}"
    raise broken(f"{what}: {difference(a, b)}", scenario)
